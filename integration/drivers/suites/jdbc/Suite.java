import java.io.*;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.*;
import org.postgresql.largeobject.*;
import org.postgresql.util.PSQLException;

/** What pgjdbc can do, each on a connection of its own, for every way it prepares statements. */
public class Suite {
  interface Body { void run(Connection c) throws Exception; }

  static String options;
  static int made;

  static Connection connect(String more) throws SQLException {
    String host = more.contains("sslmode=verify-full") ? "localhost" : System.getenv("PGHOST");
    String url = "jdbc:postgresql://" + host + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE") + "?sslmode=disable&loginTimeout=10" + more;
    return DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
  }

  static void test(String name, Body body) { test(name, "", body); }

  static void test(String name, String more, Body body) {
    String full = name + " (" + options.substring(1).replace('&', ' ') + ")";
    ExecutorService one = Executors.newSingleThreadExecutor(r -> { Thread t = new Thread(r); t.setDaemon(true); return t; });
    try {
      one.submit(() -> { try (Connection c = connect(options + more)) { body.run(c); } return null; }).get(40, TimeUnit.SECONDS);
      System.out.println("ok - " + full);
    } catch (Throwable e) {
      Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
      StringWriter w = new StringWriter();
      cause.printStackTrace(new PrintWriter(w));
      System.out.println("not ok - " + full + "\n# " + w.toString().trim().replace("\n", "\n# "));
    } finally { one.shutdownNow(); }
  }

  static void same(Object want, Object got) { if (!Objects.equals(want, got)) throw new AssertionError("want " + want + ", got " + got); }

  static void fails(String state, Callable<?> f) throws Exception {
    try { f.call(); } catch (SQLException e) { same(state, e.getSQLState()); return; }
    throw new AssertionError("no error, want " + state);
  }

  static String table(Connection c, String columns) throws SQLException {
    String t = "jdbc_" + ++made;
    try (Statement s = c.createStatement()) { s.execute("CREATE TABLE " + t + " (" + columns + ")"); }
    return t;
  }

  static long number(Connection c, String sql) throws SQLException {
    try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) { r.next(); return r.getLong(1); }
  }

  static String text(Connection c, String sql) throws SQLException {
    try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) { r.next(); return r.getString(1); }
  }

  public static void main(String[] args) {
    for (String o : new String[] {"&prepareThreshold=0", "&prepareThreshold=1", "&prepareThreshold=5", "&prepareThreshold=-1", "&preferQueryMode=simple",
        "&preferQueryMode=extendedForPrepared", "&preferQueryMode=extendedCacheEverything&prepareThreshold=1", "&prepareThreshold=5&autosave=always",
        "&prepareThreshold=1&autosave=conservative", "&prepareThreshold=1&reWriteBatchedInserts=true&binaryTransfer=false"}) {
      options = o;
      all();
    }
    System.out.flush();
    System.exit(0);
  }

  static void all() {
    boolean simple = options.contains("=simple");
    test("parameters", c -> {
      try (PreparedStatement p = c.prepareStatement("SELECT ?::int, ?::text, ?::numeric, ?::bytea, ?::timestamptz, ?::bool, ?::int[]")) {
        for (int i = 0; i < 12; i++) {
          p.setInt(1, i); p.setString(2, "ü"); p.setBigDecimal(3, new java.math.BigDecimal("1.50")); p.setBytes(4, new byte[] {0, -1});
          p.setTimestamp(5, new Timestamp(0)); p.setBoolean(6, true); p.setArray(7, c.createArrayOf("int4", new Integer[] {1, 2}));
          try (ResultSet r = p.executeQuery()) {
            r.next();
            same(i, r.getInt(1)); same("ü", r.getString(2)); same("1.50", r.getBigDecimal(3).toString()); same(2, r.getBytes(4).length);
            same(0L, r.getTimestamp(5).getTime()); same(true, r.getBoolean(6)); same(2, ((Integer[]) r.getArray(7).getArray())[1]);
          }
        }
      }
    });
    test("changing types of parameters", c -> {
      try (PreparedStatement p = c.prepareStatement("SELECT ? IS NULL")) {
        for (int i = 0; i < 12; i++) { if (i % 2 == 0) p.setInt(1, i); else p.setString(1, "x"); try (ResultSet r = p.executeQuery()) { r.next(); same(false, r.getBoolean(1)); } }
      }
    });
    test("many statements", c -> {
      for (int round = 0; round < 2; round++) for (int i = 0; i < 300; i++)
        try (PreparedStatement p = c.prepareStatement("SELECT ? + " + i)) { p.setInt(1, 1); try (ResultSet r = p.executeQuery()) { r.next(); same(i + 1, r.getInt(1)); } }
    });
    test("batch", c -> {
      String t = table(c, "a int PRIMARY KEY, b text");
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " VALUES (?, ?)")) {
        for (int i = 0; i < 700; i++) { p.setInt(1, i); p.setString(2, "row " + i); p.addBatch(); }
        same(700, p.executeBatch().length);
      }
      same(700L, number(c, "SELECT count(*) FROM " + t));
    });
    test("batch that fails", c -> {
      String t = table(c, "a int PRIMARY KEY");
      c.setAutoCommit(false);
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " VALUES (?)")) {
        for (int i = 0; i < 50; i++) { p.setInt(1, i == 30 ? 3 : i); p.addBatch(); }
        fails("23505", p::executeBatch);
      }
      c.rollback();
      same(0L, number(c, "SELECT count(*) FROM " + t));
    });
    test("batch of statements", c -> {
      String t = table(c, "a int");
      try (Statement s = c.createStatement()) {
        s.addBatch("INSERT INTO " + t + " VALUES (1)"); s.addBatch("UPDATE " + t + " SET a = 2"); s.addBatch("DELETE FROM " + t);
        same("[1, 1, 1]", Arrays.toString(s.executeBatch()));
      }
    });
    test("batch with generated keys", c -> {
      String t = table(c, "id serial PRIMARY KEY, b text");
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " (b) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
        for (int i = 0; i < 40; i++) { p.setString(1, "x"); p.addBatch(); }
        p.executeBatch();
        int n = 0;
        try (ResultSet r = p.getGeneratedKeys()) { while (r.next()) same(++n, r.getInt("id")); }
        same(40, n);
      }
    });
    test("generated keys", c -> {
      String t = table(c, "id serial PRIMARY KEY, b text");
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " (b) VALUES (?)", new String[] {"id"})) {
        for (int i = 1; i < 9; i++) { p.setString(1, "x"); p.executeUpdate(); try (ResultSet r = p.getGeneratedKeys()) { r.next(); same(i, r.getInt(1)); } }
      }
    });
    test("savepoints", c -> {
      String t = table(c, "a int");
      c.setAutoCommit(false);
      try (Statement s = c.createStatement()) {
        s.execute("INSERT INTO " + t + " VALUES (1)");
        Savepoint one = c.setSavepoint("one");
        s.execute("INSERT INTO " + t + " VALUES (2)");
        Savepoint two = c.setSavepoint();
        fails("22012", () -> s.execute("SELECT 1/0"));
        c.rollback(two);
        c.rollback(one);
        s.execute("INSERT INTO " + t + " VALUES (3)");
        c.releaseSavepoint(one);
        c.commit();
      }
      same(4L, number(c, "SELECT sum(a) FROM " + t));
    });
    test("error in a transaction", c -> {
      c.setAutoCommit(false);
      try (Statement s = c.createStatement()) {
        s.execute("SELECT 1");
        fails("42P01", () -> s.execute("SELECT * FROM nowhere"));
        if (options.contains("always")) s.execute("SELECT 1"); else fails("25P02", () -> s.execute("SELECT 1"));
      }
      c.rollback();
      same(1L, number(c, "SELECT 1"));
    });
    test("isolation and read only", c -> {
      String t = table(c, "a int");
      c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
      same(Connection.TRANSACTION_SERIALIZABLE, c.getTransactionIsolation());
      c.setReadOnly(true); c.setAutoCommit(false);
      try (Statement s = c.createStatement()) { fails("25006", () -> s.execute("INSERT INTO " + t + " VALUES (1)")); }
      c.rollback(); c.setReadOnly(false);
      try (Statement s = c.createStatement()) { s.execute("INSERT INTO " + t + " VALUES (1)"); }
      c.commit();
    });
    test("fetch size", c -> {
      c.setAutoCommit(false);
      for (int round = 0; round < 7; round++)
        try (PreparedStatement p = c.prepareStatement("SELECT n FROM generate_series(1, ?) n")) {
          p.setFetchSize(10); p.setInt(1, 95);
          long sum = 0;
          try (ResultSet r = p.executeQuery()) { while (r.next()) sum += r.getInt(1); }
          same(95L * 96 / 2, sum);
        }
      c.commit();
    });
    test("fetch size, two results by turns", c -> {
      c.setAutoCommit(false);
      try (PreparedStatement p = c.prepareStatement("SELECT n FROM generate_series(1, 50) n"); PreparedStatement q = c.prepareStatement("SELECT -n FROM generate_series(1, 50) n")) {
        p.setFetchSize(7); q.setFetchSize(9);
        try (ResultSet r = p.executeQuery(); ResultSet x = q.executeQuery()) { while (r.next()) { x.next(); same(0, r.getInt(1) + x.getInt(1)); } }
      }
      c.commit();
    });
    test("fetch size with autocommit", c -> {
      try (Statement s = c.createStatement()) { s.setFetchSize(10); int n = 0; try (ResultSet r = s.executeQuery("SELECT n FROM generate_series(1, 95) n")) { while (r.next()) n++; } same(95, n); }
    });
    test("result that is left early", c -> {
      c.setAutoCommit(false);
      try (Statement s = c.createStatement()) { s.setFetchSize(5); try (ResultSet r = s.executeQuery("SELECT n FROM generate_series(1, 100000) n")) { r.next(); } }
      same(1L, number(c, "SELECT 1"));
      c.commit();
    });
    test("max rows", c -> {
      try (Statement s = c.createStatement()) { s.setMaxRows(3); int n = 0; try (ResultSet r = s.executeQuery("SELECT n FROM generate_series(1, 95) n")) { while (r.next()) n++; } same(3, n); }
    });
    test("scrollable and updatable result", c -> {
      String t = table(c, "id int PRIMARY KEY, b text");
      try (Statement s = c.createStatement()) { s.execute("INSERT INTO " + t + " SELECT n, 'x' FROM generate_series(1, 5) n"); }
      try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE); ResultSet r = s.executeQuery("SELECT id, b FROM " + t + " ORDER BY id")) {
        r.last(); same(5, r.getInt(1)); r.updateString(2, "y"); r.updateRow(); r.first(); r.deleteRow();
        r.moveToInsertRow(); r.updateInt(1, 9); r.updateString(2, "z"); r.insertRow();
      }
      same(20L + 3, number(c, "SELECT sum(id) FROM " + t) );
    });
    test("several statements", c -> {
      try (Statement s = c.createStatement()) {
        same(true, s.execute("SELECT 1; SELECT 2; CREATE TABLE IF NOT EXISTS jdbc_several (a int)"));
        same(true, s.getMoreResults()); try (ResultSet r = s.getResultSet()) { r.next(); same(2, r.getInt(1)); }
      }
    });
    test("several statements with parameters", c -> {
      String t = table(c, "a int");
      for (int i = 0; i < 8; i++)
        try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " VALUES (?); UPDATE " + t + " SET a = a + ?; SELECT 1")) { p.setInt(1, i); p.setInt(2, 1); p.execute(); }
      same(8L, number(c, "SELECT count(*) FROM " + t));
    });
    test("metadata", c -> {
      String t = table(c, "id int PRIMARY KEY, b text NOT NULL DEFAULT 'x'");
      DatabaseMetaData m = c.getMetaData();
      try (ResultSet r = m.getColumns(null, "public", t, null)) { r.next(); same("id", r.getString("COLUMN_NAME")); r.next(); same("NO", r.getString("IS_NULLABLE")); }
      try (ResultSet r = m.getPrimaryKeys(null, "public", t)) { r.next(); same("id", r.getString("COLUMN_NAME")); }
      try (ResultSet r = m.getIndexInfo(null, "public", t, true, false)) { same(true, r.next()); }
      try (ResultSet r = m.getTables(null, "public", t, new String[] {"TABLE"})) { same(true, r.next()); }
      try (ResultSet r = m.getTypeInfo()) { same(true, r.next()); }
      try (PreparedStatement p = c.prepareStatement("SELECT id, b FROM " + t + " WHERE id = ?")) {
        same("int4", p.getMetaData().getColumnTypeName(1)); same(t, p.getMetaData().getTableName(2)); same(Types.INTEGER, p.getParameterMetaData().getParameterType(1));
      }
      same(15, m.getDatabaseMajorVersion());
    });
    test("DDL between", c -> {
      String t = table(c, "a int");
      try (PreparedStatement p = c.prepareStatement("SELECT * FROM " + t)) {
        for (int i = 0; i < 8; i++) try (ResultSet r = p.executeQuery()) { same(1, r.getMetaData().getColumnCount()); }
        try (Statement s = c.createStatement()) { s.execute("ALTER TABLE " + t + " ADD b int"); }
        for (int i = 0; i < 8; i++) try (ResultSet r = p.executeQuery()) { same(2, r.getMetaData().getColumnCount()); }
      }
    });
    test("functions and procedures", c -> {
      try (Statement s = c.createStatement()) {
        s.execute("CREATE OR REPLACE FUNCTION jdbc_twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2'");
        s.execute("CREATE OR REPLACE PROCEDURE jdbc_add(INOUT n int) LANGUAGE plpgsql AS $$ BEGIN n := n + 1; END $$");
        s.execute("CREATE OR REPLACE FUNCTION jdbc_cursor() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor; BEGIN OPEN c FOR SELECT 1 UNION SELECT 2; RETURN c; END $$");
      }
      try (CallableStatement p = c.prepareCall("{? = call jdbc_twice(?)}")) { p.registerOutParameter(1, Types.INTEGER); p.setInt(2, 4); p.execute(); same(8, p.getInt(1)); }
      try (CallableStatement p = c.prepareCall("call jdbc_add(?)")) { p.registerOutParameter(1, Types.INTEGER); p.setInt(1, 4); p.execute(); same(5, p.getInt(1)); }
      c.setAutoCommit(false);
      try (CallableStatement p = c.prepareCall("{? = call jdbc_cursor()}")) { p.registerOutParameter(1, Types.REF_CURSOR); p.execute(); int n = 0; try (ResultSet r = (ResultSet) p.getObject(1)) { while (r.next()) n++; } same(2, n); }
      c.commit();
    });
    test("COPY", c -> {
      String t = table(c, "a int, b text");
      CopyManager m = c.unwrap(PGConnection.class).getCopyAPI();
      same(3L, m.copyIn("COPY " + t + " FROM STDIN", new StringReader("1\tx\n2\ty\n3\tz\n")));
      StringWriter w = new StringWriter();
      same(3L, m.copyOut("COPY (SELECT a FROM " + t + " ORDER BY a) TO STDOUT CSV", w));
      same("1\n2\n3\n", w.toString());
      CopyIn in = m.copyIn("COPY " + t + " FROM STDIN");
      in.writeToCopy("4\tw\n".getBytes(), 0, 4); in.cancelCopy();
      fails("22P02", () -> m.copyIn("COPY " + t + " FROM STDIN", new StringReader("x\tx\n")));
      CopyOut out = m.copyOut("COPY (SELECT n FROM generate_series(1, 200000) n) TO STDOUT");
      out.readFromCopy(); try { out.cancelCopy(); } catch (SQLException e) { same("57014", e.getSQLState()); }
      same(3L, number(c, "SELECT count(*) FROM " + t));
    });
    test("LISTEN", c -> {
      try (Statement s = c.createStatement()) { s.execute("LISTEN jdbc_channel"); }
      try (Connection other = connect("")) { try (Statement s = other.createStatement()) { s.execute("NOTIFY jdbc_channel, 'words'"); } }
      PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(2000);
      same(true, heard != null && heard.length == 1 && heard[0].getParameter().equals("words"));
    });
    test("cancel", c -> {
      try (Statement s = c.createStatement()) {
        Timer t = new Timer(true);
        t.schedule(new TimerTask() { public void run() { try { s.cancel(); } catch (SQLException e) { throw new RuntimeException(e); } } }, 300);
        fails("57014", () -> s.execute("SELECT pg_sleep(20)"));
        t.cancel();
      }
      same(1L, number(c, "SELECT 1"));
    });
    test("query time-out", c -> {
      try (Statement s = c.createStatement()) { s.setQueryTimeout(1); fails("57014", () -> s.execute("SELECT pg_sleep(20)")); }
      same(1L, number(c, "SELECT 1"));
    });
    test("network time-out, isValid", c -> {
      same(true, c.isValid(5));
      c.setNetworkTimeout(Runnable::run, 300);
      fails("08006", () -> { try (Statement s = c.createStatement()) { return s.execute("SELECT pg_sleep(20)"); } });
      same(true, c.isClosed());
    });
    test("large objects", c -> {
      c.setAutoCommit(false);
      LargeObjectManager m = c.unwrap(PGConnection.class).getLargeObjectAPI();
      long oid = m.createLO();
      LargeObject o = m.open(oid, LargeObjectManager.READWRITE);
      o.write("what is large".getBytes()); o.seek(5); same("is large", new String(o.read(20), StandardCharsets.US_ASCII)); o.truncate(4); same(4L, o.size64()); o.close();
      c.commit(); m.delete(oid); c.commit();
    });
    test("Blob", c -> {
      String t = table(c, "b oid");
      c.setAutoCommit(false);
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + t + " VALUES (?)")) { p.setBlob(1, new ByteArrayInputStream(new byte[5000])); p.execute(); }
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT b FROM " + t)) { r.next(); same(5000L, r.getBlob(1).length()); }
      c.commit();
    });
    test("settings of the session", c -> {
      c.setSchema("pg_catalog"); same("pg_catalog", c.getSchema());
      try (Statement s = c.createStatement()) { s.execute("SET work_mem = '11MB'"); }
      same("11MB", text(c, "SHOW work_mem"));
      c.setClientInfo("ApplicationName", "mine"); same("mine", text(c, "SHOW application_name"));
    });
    test("parameters at login", "&currentSchema=pg_catalog&ApplicationName=mine&options=-c%20work_mem=9MB", c -> {
      same("pg_catalog", text(c, "SHOW search_path")); same("mine", text(c, "SHOW application_name")); same("9MB", text(c, "SHOW work_mem"));
    });
    test("temporary table", c -> {
      try (Statement s = c.createStatement()) { s.execute("CREATE TEMP TABLE jdbc_temp (a int)"); s.execute("INSERT INTO jdbc_temp VALUES (1)"); }
      same(1L, number(c, "SELECT count(*) FROM jdbc_temp"));
    });
    test("holdable cursor", c -> {
      c.setHoldability(ResultSet.HOLD_CURSORS_OVER_COMMIT); c.setAutoCommit(false);
      try (Statement s = c.createStatement()) { s.setFetchSize(2); try (ResultSet r = s.executeQuery("SELECT n FROM generate_series(1, 3) n")) { r.next(); c.commit(); int n = 1; while (r.next()) n++; same(3, n); } }
    });
    test("XA by hand", c -> {
      String t = table(c, "a int");
      c.setAutoCommit(false);
      try (Statement s = c.createStatement()) { s.execute("INSERT INTO " + t + " VALUES (1)"); s.execute("PREPARE TRANSACTION '" + t + "'"); }
      c.setAutoCommit(true);
      try (Statement s = c.createStatement()) { s.execute("COMMIT PREPARED '" + t + "'"); }
      same(1L, number(c, "SELECT count(*) FROM " + t));
    });
    test("notices", c -> {
      try (Statement s = c.createStatement()) { s.execute("DO $$ BEGIN RAISE WARNING 'words'; END $$"); same("words", s.getWarnings().getMessage()); }
    });
    test("large values", c -> {
      char[] big = new char[3_000_000]; Arrays.fill(big, 'x');
      try (PreparedStatement p = c.prepareStatement("SELECT length(?), ?::text")) { p.setString(1, new String(big)); p.setString(2, new String(big)); try (ResultSet r = p.executeQuery()) { r.next(); same(3_000_000, r.getInt(1)); same(3_000_000, r.getString(2).length()); } }
    });
    test("fields of an error", c -> {
      String t = table(c, "a int CONSTRAINT has_to CHECK (a > 0)");
      try (Statement s = c.createStatement()) { s.execute("INSERT INTO " + t + " VALUES (-1)"); throw new AssertionError("no error"); }
      catch (PSQLException e) { same("has_to", e.getServerErrorMessage().getConstraint()); same(t, e.getServerErrorMessage().getTable()); same("23514", e.getSQLState()); }
    });
    test("sequences", c -> {
      String t = table(c, "id serial");
      try (Statement s = c.createStatement()) { s.execute("INSERT INTO " + t + " DEFAULT VALUES"); }
      same(1L, number(c, "SELECT currval('" + t + "_id_seq')")); same(1L, number(c, "SELECT lastval()"));
    });
    test("TLS, verified", tls("TLS_ROOT"), c -> {
      try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT repeat('x', 2000000)")) { r.next(); same(2_000_000, r.getString(1).length()); }
    });
    test("TLS by another authority", c -> fails("08006", () -> connect(options + tls("TLS_OTHER_ROOT"))));
  }

  /** The last of several parameters of a name counts; and the certificate is for localhost alone. */
  static String tls(String root) { return "&sslmode=verify-full&sslrootcert=" + System.getenv(root); }
}
