import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import io.r2dbc.postgresql.*;
import io.r2dbc.postgresql.api.*;
import io.r2dbc.spi.IsolationLevel;
import io.r2dbc.spi.R2dbcException;
import io.vertx.core.Future;
import io.vertx.core.Vertx;
import io.vertx.pgclient.*;
import io.vertx.pgclient.pubsub.PgSubscriber;
import io.vertx.sqlclient.Pool;
import io.vertx.sqlclient.PoolOptions;
import io.vertx.sqlclient.PreparedStatement;
import io.vertx.sqlclient.Row;
import io.vertx.sqlclient.RowSet;
import io.vertx.sqlclient.Transaction;
import io.vertx.sqlclient.Tuple;
import jakarta.persistence.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.sql.DriverManager;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.flywaydb.core.Flyway;
import org.hibernate.LockMode;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.cfg.Configuration;
import org.jooq.DSLContext;
import org.jooq.JSONB;
import org.jooq.SQLDialect;
import org.jooq.impl.DSL;
import reactor.core.publisher.*;

/** What Java has for PostgreSQL beside JDBC itself: two drivers that speak the protocol by themselves, mappers, migrations, and a follower of changes. */
public class Suite {
  interface Body { void run() throws Throwable; }

  static final String HOST = System.getenv("PGHOST"), USER = System.getenv("PGUSER"), PASSWORD = System.getenv("PGPASSWORD"), DATABASE = System.getenv("PGDATABASE");
  static final int PORT = Integer.parseInt(System.getenv("PGPORT"));
  static final String JDBC = "jdbc:postgresql://" + HOST + ":" + PORT + "/" + DATABASE + "?sslmode=disable";
  static final Duration WAIT = Duration.ofSeconds(30);

  static void test(String name, Body body) {
    ExecutorService one = Executors.newSingleThreadExecutor(r -> { Thread t = new Thread(r); t.setDaemon(true); return t; });
    try {
      one.submit(() -> { try { body.run(); } catch (Throwable t) { throw new ExecutionException(t); } return null; }).get(60, TimeUnit.SECONDS);
      System.out.println("ok - " + name);
    } catch (Throwable e) {
      StringWriter w = new StringWriter();
      e.printStackTrace(new PrintWriter(w));
      System.out.println("not ok - " + name + "\n# " + w.toString().trim().replace("\n", "\n# "));
    } finally { one.shutdownNow(); }
  }

  static void same(Object want, Object got) { if (!Objects.equals(want, got)) throw new AssertionError("want " + want + ", got " + got); }

  public static void main(String[] args) throws Exception {
    r2dbc();
    vertx();
    hibernate();
    jooq();
    migrations();
    debezium();
    System.exit(0);
  }

  // R2DBC

  interface R { void run(PostgresqlConnection c) throws Exception; }

  static PostgresqlConnectionConfiguration.Builder r2dbcOptions() {
    return PostgresqlConnectionConfiguration.builder().host(HOST).port(PORT).username(USER).password(PASSWORD).database(DATABASE);
  }

  static void r2dbc(String name, R body) {
    for (int cached : new int[] {0, -1}) {
      for (int fetch : new int[] {0, 7}) {
        test("r2dbc " + name + (cached == 0 ? ", no cache" : "") + (fetch == 0 ? "" : ", portals"), () -> {
          PostgresqlConnection c = new PostgresqlConnectionFactory(r2dbcOptions().preparedStatementCacheQueries(cached).fetchSize(fetch).build()).create().block(WAIT);
          try { body.run(c); } finally { c.close().block(WAIT); }
        });
      }
    }
  }

  static <T> List<T> rows(PostgresqlConnection c, Class<T> type, String sql, Object... params) {
    var s = c.createStatement(sql);
    for (int i = 0; i < params.length; i++) s.bind(i, params[i]);
    return s.execute().concatMap(r -> r.map((row, m) -> Optional.ofNullable(row.get(0, type)))).map(o -> o.orElse(null)).collectList().block(WAIT);
  }

  static long changed(PostgresqlConnection c, String sql, Object... params) {
    var s = c.createStatement(sql);
    for (int i = 0; i < params.length; i++) s.bind(i, params[i]);
    return s.execute().concatMap(PostgresqlResult::getRowsUpdated).reduce(0L, Long::sum).block(WAIT);
  }

  static void fails(String state, Runnable f) {
    try { f.run(); } catch (R2dbcException e) { same(state, e.getSqlState()); return; }
    throw new AssertionError("no error, want " + state);
  }

  static void r2dbc() {
    r2dbc("values", c -> {
      same(List.of(3), rows(c, Integer.class, "SELECT $1::int + $2", 1, 2));
      same(List.of("ä€"), rows(c, String.class, "SELECT $1::text", "ä€"));
      same(List.of(LocalDate.of(2020, 2, 29)), rows(c, LocalDate.class, "SELECT $1::date", LocalDate.of(2020, 2, 29)));
      same(List.of(new java.math.BigDecimal("1.50")), rows(c, java.math.BigDecimal.class, "SELECT $1::numeric", new java.math.BigDecimal("1.50")));
      UUID id = UUID.randomUUID();
      same(List.of(id), rows(c, UUID.class, "SELECT $1::uuid", id));
      same(List.of(3), rows(c, Integer[].class, "SELECT $1::int[]", (Object) new Integer[] {1, 2, 3}).stream().map(a -> a.length).toList());
    });
    r2dbc("many rows", c -> {
      for (int i = 0; i < 3; i++) same(1000, rows(c, Integer.class, "SELECT g FROM generate_series(1, $1) g", 1000).size());
      same(2000, rows(c, Integer.class, "SELECT g FROM generate_series(1, 2000) g").size());
    });
    r2dbc("a stream that is given up", c -> {
      for (int i = 0; i < 5; i++) {
        same(List.of(1, 2, 3), c.createStatement("SELECT g FROM generate_series(1, $1) g").bind(0, 500).execute().concatMap(r -> r.map((row, m) -> row.get(0, Integer.class))).take(3).collectList().block(WAIT));
        same(List.of(i), rows(c, Integer.class, "SELECT $1::int", i));
      }
    });
    r2dbc("bindings in a batch", c -> {
      changed(c, "DROP TABLE IF EXISTS r2");
      changed(c, "CREATE TABLE r2 (id serial PRIMARY KEY, v text UNIQUE)");
      var s = c.createStatement("INSERT INTO r2 (v) VALUES ($1)").returnGeneratedValues("id");
      for (int i = 0; i < 50; i++) { s.bind(0, "v" + i); if (i < 49) s.add(); }
      same(50, s.execute().concatMap(r -> r.map((row, m) -> row.get("id", Integer.class))).collectList().block(WAIT).size());
      same(50L, changed(c, "UPDATE r2 SET v = v || 'x'"));
      fails("23505", () -> changed(c, "INSERT INTO r2 (v) VALUES ($1)", "v1x"));
      same(List.of(50L), rows(c, Long.class, "SELECT count(*) FROM r2"));
    });
    test("r2dbc statements in one message", () -> {
      PostgresqlConnection c = new PostgresqlConnectionFactory(r2dbcOptions().build()).create().block(WAIT);
      same(List.of(1L, 1L), c.createBatch().add("SELECT 1::bigint").add("SELECT 1::bigint").execute().concatMap(r -> r.map((row, m) -> row.get(0, Long.class))).collectList().block(WAIT));
      c.close().block(WAIT);
    });
    r2dbc("transactions", c -> {
      changed(c, "DROP TABLE IF EXISTS r3");
      changed(c, "CREATE TABLE r3 (v int)");
      for (IsolationLevel level : List.of(IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)) {
        c.beginTransaction(level).block(WAIT);
        same(List.of(level.asSql().toLowerCase()), rows(c, String.class, "SHOW transaction_isolation"));
        changed(c, "INSERT INTO r3 VALUES ($1)", 1);
        c.createSavepoint("s").block(WAIT);
        fails("22012", () -> rows(c, Integer.class, "SELECT 1/$1::int", 0));
        c.rollbackTransactionToSavepoint("s").block(WAIT);
        changed(c, "INSERT INTO r3 VALUES ($1)", 2);
        c.commitTransaction().block(WAIT);
      }
      c.beginTransaction().block(WAIT);
      changed(c, "INSERT INTO r3 VALUES (3)");
      c.rollbackTransaction().block(WAIT);
      same(List.of(6L), rows(c, Long.class, "SELECT count(*) FROM r3"));
      same(true, c.isAutoCommit());
      c.setTransactionIsolationLevel(IsolationLevel.SERIALIZABLE).block(WAIT);
      same(List.of("serializable"), rows(c, String.class, "SHOW transaction_isolation"));
      c.setAutoCommit(false).block(WAIT);
      changed(c, "INSERT INTO r3 VALUES (4)");
      c.rollbackTransaction().block(WAIT);
      c.setAutoCommit(true).block(WAIT);
      same(List.of(6L), rows(c, Long.class, "SELECT count(*) FROM r3"));
    });
    r2dbc("statements at once", c -> {
      // The driver's cache of names is not safe against itself: now and then two of a text that is new get one name.
      same(List.of(1), rows(c, Integer.class, "SELECT $1::int", 1));
      List<Integer> got = Flux.range(0, 100).flatMap(i -> c.createStatement("SELECT $1::int").bind(0, i).execute().concatMap(r -> r.map((row, m) -> row.get(0, Integer.class))), 20).collectList().block(WAIT);
      same(IntStream.range(0, 100).boxed().toList(), got.stream().sorted().toList());
    });
    r2dbc("notifications", c -> {
      PostgresqlConnection other = new PostgresqlConnectionFactory(r2dbcOptions().build()).create().block(WAIT);
      changed(c, "LISTEN r2dbc");
      var heard = new LinkedBlockingQueue<String>();
      var listening = c.getNotifications().subscribe(n -> heard.add(n.getName() + ":" + n.getParameter()));
      changed(other, "NOTIFY r2dbc, 'x'");
      same("r2dbc:x", heard.poll(20, TimeUnit.SECONDS));
      listening.dispose();
      other.close().block(WAIT);
    });
    r2dbc("copy", c -> {
      changed(c, "DROP TABLE IF EXISTS r4");
      changed(c, "CREATE TABLE r4 (v int, t text)");
      String text = IntStream.range(0, 1000).mapToObj(i -> i + "\tt" + i + "\n").collect(Collectors.joining());
      same(1000L, c.copyIn("COPY r4 FROM STDIN", Mono.just(io.netty.buffer.Unpooled.wrappedBuffer(text.getBytes(StandardCharsets.UTF_8)))).block(WAIT));
      same(List.of(1000L), rows(c, Long.class, "SELECT count(*) FROM r4"));
    });
    r2dbc("statement timeout, lock timeout, cancellation", c -> {
      c.setStatementTimeout(Duration.ofMillis(50)).block(WAIT);
      fails("57014", () -> rows(c, String.class, "SELECT pg_sleep(10)::text"));
      c.setStatementTimeout(Duration.ZERO).block(WAIT);
      c.setLockWaitTimeout(Duration.ofMillis(70)).block(WAIT);
      same(List.of("70ms"), rows(c, String.class, "SHOW lock_timeout"));
      var sleeping = c.createStatement("SELECT pg_sleep(30)").execute().concatMap(r -> r.getRowsUpdated()).then().toFuture();
      Thread.sleep(200);
      c.cancelRequest().block(WAIT);
      try { sleeping.get(20, TimeUnit.SECONDS); throw new AssertionError("not cancelled"); } catch (ExecutionException e) { same("57014", ((R2dbcException) e.getCause()).getSqlState()); }
      same(List.of(1), rows(c, Integer.class, "SELECT 1"));
    });
    r2dbc("an enum of the schema, and types that are made later", c -> {
      changed(c, "DROP TABLE IF EXISTS r5");
      changed(c, "DROP TYPE IF EXISTS mood");
      changed(c, "CREATE TYPE mood AS ENUM ('sad', 'ok')");
      changed(c, "CREATE TABLE r5 (m mood, p point, j jsonb)");
      changed(c, "INSERT INTO r5 VALUES ($1::mood, '(1,2)', '{\"a\": 1}')", "ok");
      same(List.of("ok"), rows(c, String.class, "SELECT m FROM r5"));
      changed(c, "ALTER TABLE r5 ALTER m TYPE text");
      same(List.of("ok"), rows(c, String.class, "SELECT m::text FROM r5 WHERE j->>'a' = $1", "1"));
      same(true, c.validate(io.r2dbc.spi.ValidationDepth.REMOTE).block(WAIT));
    });
  }

  // Vert.x

  interface V { void run(PgConnection c) throws Exception; }

  static <T> T await(Future<T> f) throws Exception { return f.toCompletionStage().toCompletableFuture().get(30, TimeUnit.SECONDS); }

  static PgConnectOptions vertxOptions() { return new PgConnectOptions().setHost(HOST).setPort(PORT).setUser(USER).setPassword(PASSWORD).setDatabase(DATABASE); }

  static final Vertx VERTX = Vertx.vertx();

  static void vertx(String name, V body) {
    for (boolean cached : new boolean[] {false, true}) {
      for (int depth : new int[] {1, 64}) {
        test("vertx " + name + (cached ? ", cache" : "") + (depth == 1 ? "" : ", pipelines"), () -> {
          PgConnection c = await(PgConnection.connect(VERTX, vertxOptions().setCachePreparedStatements(cached).setPipeliningLimit(depth)));
          try { body.run(c); } finally { await(c.close()); }
        });
      }
    }
  }

  static void refused(String state, Future<?> f) throws Exception {
    try { await(f); } catch (ExecutionException e) { same(state, ((PgException) e.getCause()).getSqlState()); return; }
    throw new AssertionError("no error, want " + state);
  }

  static void vertx() {
    vertx("values", c -> {
      Row r = await(c.preparedQuery("SELECT $1::int, $2::text, $3::timestamptz, $4::numeric, $5::jsonb, $6::int[]").execute(Tuple.of(1, "ä€", OffsetDateTime.parse("2020-02-29T10:00:00Z"),
        io.vertx.sqlclient.data.Numeric.parse("1.50"), new io.vertx.core.json.JsonObject().put("a", 1), new Integer[] {1, 2}))).iterator().next();
      same(1, r.getInteger(0));
      same("ä€", r.getString(1));
      same(1, r.getJsonObject(4).getInteger("a"));
      same(2, r.getArrayOfIntegers(5)[1]);
    });
    vertx("statements at once", c -> {
      List<Future<RowSet<Row>>> all = new ArrayList<>();
      for (int i = 0; i < 300; i++) {
        all.add(i % 7 == 3 ? c.preparedQuery("SELECT 1/($1::int - $1)").execute(Tuple.of(i)) : i % 5 == 0 ? c.query("SELECT " + i).execute() : c.preparedQuery("SELECT $1::int").execute(Tuple.of(i)));
      }
      for (int i = 0; i < 300; i++) {
        if (i % 7 == 3) refused("22012", all.get(i)); else same(i, await(all.get(i)).iterator().next().getInteger(0));
      }
    });
    vertx("batches", c -> {
      await(c.query("DROP TABLE IF EXISTS v1").execute());
      await(c.query("CREATE TABLE v1 (id int PRIMARY KEY, v text)").execute());
      await(c.preparedQuery("INSERT INTO v1 VALUES ($1, $2)").executeBatch(IntStream.range(0, 200).mapToObj(i -> Tuple.of(i, "v" + i)).toList()));
      refused("23505", c.preparedQuery("INSERT INTO v1 VALUES ($1, $2)").executeBatch(IntStream.range(195, 205).mapToObj(i -> Tuple.of(i, "w")).toList()));
      same(200L, await(c.query("SELECT count(*) FROM v1").execute()).iterator().next().getLong(0));
    });
    vertx("transactions", c -> {
      await(c.query("DROP TABLE IF EXISTS v2").execute());
      await(c.query("CREATE TABLE v2 (v int)").execute());
      Transaction t = await(c.begin());
      Future<?> a = c.preparedQuery("INSERT INTO v2 VALUES ($1)").execute(Tuple.of(1)), b = c.preparedQuery("SELECT nothing FROM v2").execute(), d = c.query("SELECT 1").execute();
      await(a);
      refused("42703", b);
      try { await(d); throw new AssertionError("the transaction goes on"); } catch (ExecutionException e) { /* 25P02, or the client has rolled it back */ }
      try { await(t.commit()); throw new AssertionError("committed"); } catch (ExecutionException e) { /* rolled back */ }
      t = await(c.begin());
      await(c.preparedQuery("INSERT INTO v2 VALUES ($1)").execute(Tuple.of(2)));
      await(t.commit());
      same(2, await(c.query("SELECT sum(v)::int FROM v2").execute()).iterator().next().getInteger(0));
    });
    vertx("cursors and streams", c -> {
      Transaction t = await(c.begin());
      PreparedStatement p = await(c.prepare("SELECT g FROM generate_series(1, $1) g"));
      io.vertx.sqlclient.Cursor cursor = p.cursor(Tuple.of(100));
      int n = 0;
      do n += await(cursor.read(30)).size(); while (cursor.hasMore());
      same(100, n);
      await(cursor.close());
      io.vertx.sqlclient.Cursor left = p.cursor(Tuple.of(100));
      same(10, await(left.read(10)).size());
      same(1, await(c.query("SELECT 1").execute()).iterator().next().getInteger(0));
      same(10, await(left.read(10)).size());
      await(left.close());
      await(p.close());
      await(t.commit());
    });
    vertx("several statements in a query", c -> {
      RowSet<Row> first = await(c.query("SELECT 1; SELECT 2; SELECT 'three'").execute());
      same(1, first.iterator().next().getInteger(0));
      same("three", first.next().next().iterator().next().getString(0));
    });
    vertx("notices and notifications", c -> {
      var heard = new LinkedBlockingQueue<String>();
      c.notificationHandler(n -> heard.add(n.getChannel() + ":" + n.getPayload()));
      var said = new LinkedBlockingQueue<String>();
      c.noticeHandler(n -> said.add(n.getMessage()));
      await(c.query("LISTEN vertx").execute());
      await(c.query("NOTIFY vertx, 'x'").execute());
      same("vertx:x", heard.poll(20, TimeUnit.SECONDS));
      await(c.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$").execute());
      same("hello", said.poll(20, TimeUnit.SECONDS));
    });
    vertx("cancellation", c -> {
      Future<?> sleeping = c.query("SELECT pg_sleep(30)").execute();
      Thread.sleep(200);
      await(c.cancelRequest());
      refused("57014", sleeping);
      same(1, await(c.query("SELECT 1").execute()).iterator().next().getInteger(0));
    });
    vertx("tables that change under prepared statements", c -> {
      await(c.query("DROP TABLE IF EXISTS v3").execute());
      await(c.query("CREATE TABLE v3 (a int)").execute());
      await(c.query("INSERT INTO v3 VALUES (1)").execute());
      same(1, await(c.preparedQuery("SELECT * FROM v3 WHERE a = $1").execute(Tuple.of(1))).size());
      await(c.query("CREATE INDEX ON v3 (a)").execute());
      same(1, await(c.preparedQuery("SELECT * FROM v3 WHERE a = $1").execute(Tuple.of(1))).size());
    });
    test("vertx a pool of many, and a subscriber", () -> {
      Pool pool = PgBuilder.pool().with(new PoolOptions().setMaxSize(8)).connectingTo(vertxOptions().setCachePreparedStatements(true)).using(VERTX).build();
      PgSubscriber subscriber = PgSubscriber.subscriber(VERTX, vertxOptions());
      var heard = new LinkedBlockingQueue<String>();
      subscriber.channel("Pool Channel").handler(heard::add);
      await(subscriber.connect());
      List<Future<RowSet<Row>>> all = new ArrayList<>();
      for (int i = 0; i < 400; i++) all.add(pool.preparedQuery("SELECT $1::int").execute(Tuple.of(i)));
      for (int i = 0; i < 400; i++) same(i, await(all.get(i)).iterator().next().getInteger(0));
      await(pool.query("NOTIFY \"Pool Channel\", 'y'").execute());
      same("y", heard.poll(20, TimeUnit.SECONDS));
      await(subscriber.close());
      await(pool.close());
    });
  }

  // Hibernate and jOOQ

  @Entity(name = "Author") @Table(name = "h_author")
  public static class Author {
    @Id @GeneratedValue(strategy = GenerationType.SEQUENCE) public Long id;
    @jakarta.persistence.Version public int version;
    public String name;
    public Instant born;
    @org.hibernate.annotations.JdbcTypeCode(org.hibernate.type.SqlTypes.JSON) public Map<String, String> facts;
    @org.hibernate.annotations.JdbcTypeCode(org.hibernate.type.SqlTypes.ARRAY) public int[] numbers;
    @OneToMany(mappedBy = "author", cascade = CascadeType.ALL, orphanRemoval = true) public List<Book> books = new ArrayList<>();
  }

  @Entity(name = "Book") @Table(name = "h_book")
  public static class Book {
    @Id @GeneratedValue(strategy = GenerationType.UUID) public UUID id;
    @ManyToOne(fetch = FetchType.LAZY) public Author author;
    public String title;
    @Lob public byte[] scan;
  }

  static void hibernate() {
    for (String threshold : new String[] {"0", "1", "5"}) {
      String suffix = ", prepareThreshold " + threshold;
      SessionFactory[] f = new SessionFactory[1];
      test("hibernate schema" + suffix, () -> f[0] = new Configuration().addAnnotatedClass(Author.class).addAnnotatedClass(Book.class)
        .setProperty("hibernate.connection.url", JDBC + "&prepareThreshold=" + threshold).setProperty("hibernate.connection.username", USER).setProperty("hibernate.connection.password", PASSWORD)
        .setProperty("hibernate.hbm2ddl.auto", "create").setProperty("hibernate.jdbc.batch_size", "20").setProperty("hibernate.type.json_format_mapper", "jackson").buildSessionFactory());
      if (f[0] == null) continue;
      test("hibernate entities" + suffix, () -> {
        f[0].inTransaction(s -> {
          for (int i = 0; i < 60; i++) {
            Author a = new Author();
            a.name = "author " + i; a.born = Instant.EPOCH; a.facts = Map.of("k", "v" + i); a.numbers = new int[] {i, i + 1};
            for (int j = 0; j < 3; j++) { Book b = new Book(); b.author = a; b.title = "book " + j; b.scan = new byte[5000]; a.books.add(b); }
            s.persist(a);
          }
        });
        for (int round = 0; round < 8; round++) {
          f[0].inTransaction(s -> {
            List<Author> all = s.createQuery("from Author a join fetch a.books where a.name like :n order by a.id", Author.class).setParameter("n", "author 1%").list();
            same(11, all.size());
            same(3, all.get(0).books.size());
            same(5000, all.get(0).books.get(0).scan.length);
            all.get(0).name += "!";
          });
        }
        same(60L, f[0].fromTransaction(s -> s.createQuery("select count(a) from Author a", Long.class).getSingleResult()));
      });
      test("hibernate locks" + suffix, () -> {
        try (Session one = f[0].openSession(); Session two = f[0].openSession()) {
          var t = one.beginTransaction();
          Author a = one.createQuery("from Author order by id", Author.class).setMaxResults(1).getSingleResult();
          one.lock(a, LockMode.PESSIMISTIC_WRITE);
          var t2 = two.beginTransaction();
          same(59, two.createQuery("from Author", Author.class).setHibernateLockMode(LockMode.UPGRADE_SKIPLOCKED).list().size());
          t2.rollback();
          t.commit();
        }
        Author stale = f[0].fromTransaction(s -> s.createQuery("from Author order by id", Author.class).setMaxResults(1).getSingleResult());
        f[0].inTransaction(s -> s.find(Author.class, stale.id).name = "newer");
        try { f[0].inTransaction(s -> { stale.name = "older"; stale.books = new ArrayList<>(); s.merge(stale); }); throw new AssertionError("no conflict"); } catch (OptimisticLockException e) { /* as it should be */ }
      });
      test("hibernate streams and stateless sessions" + suffix, () -> {
        f[0].inTransaction(s -> { try (Stream<Author> all = s.createQuery("from Author", Author.class).setFetchSize(7).stream()) { same(60L, all.count()); } });
        f[0].inStatelessTransaction(s -> same(60, s.createMutationQuery("update Author set name = name || '?'").executeUpdate()));
      });
      test("hibernate validates its schema" + suffix, () -> new Configuration().addAnnotatedClass(Author.class).addAnnotatedClass(Book.class)
        .setProperty("hibernate.connection.url", JDBC).setProperty("hibernate.connection.username", USER).setProperty("hibernate.connection.password", PASSWORD)
        .setProperty("hibernate.hbm2ddl.auto", "validate").setProperty("hibernate.type.json_format_mapper", "jackson").buildSessionFactory().close());
      f[0].close();
    }
  }

  static void jooq() {
    test("jooq statements, batches, transactions, lazy results", () -> {
      try (java.sql.Connection c = DriverManager.getConnection(JDBC, USER, PASSWORD)) {
        DSLContext q = DSL.using(c, SQLDialect.POSTGRES);
        q.dropTableIfExists("j1").execute();
        q.createTable("j1").column("id", org.jooq.impl.SQLDataType.INTEGER.identity(true)).column("v", org.jooq.impl.SQLDataType.JSONB).primaryKey("id").execute();
        var t = DSL.table("j1");
        var v = DSL.field("v", JSONB.class);
        for (int i = 0; i < 10; i++) same(1, q.insertInto(t, v).values(JSONB.valueOf("{\"n\": " + i + "}")).execute());
        same(10, q.batch(q.insertInto(t, v).values((JSONB) null)).bind(JSONB.valueOf("1")).bind(JSONB.valueOf("2")).execute().length + 8);
        try { q.transaction(x -> { x.dsl().deleteFrom(t).execute(); x.dsl().transaction(y -> y.dsl().execute("SELECT 1/0")); }); throw new AssertionError("no error"); } catch (org.jooq.exception.DataAccessException e) { same("22012", e.sqlState()); }
        same(12, q.fetchCount(t));
        q.transaction(x -> { try (var cursor = x.dsl().selectFrom(t).fetchSize(3).fetchLazy()) { same(12L, cursor.stream().count()); } });
        same(true, q.meta().getTables("j1").size() == 1);
      }
    });
  }

  // Migrations

  static void migrations() throws IOException {
    Path dir = Files.createTempDirectory(Path.of(System.getenv("OUT")), "migrations");
    Files.writeString(dir.resolve("V1__first.sql"), "CREATE TABLE f1 (id int PRIMARY KEY);\nINSERT INTO f1 SELECT generate_series(1, 10);\n");
    Files.writeString(dir.resolve("V2__code.sql"), "CREATE FUNCTION f2() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;\nCREATE VIEW f3 AS SELECT f2(), id FROM f1;\n");
    Files.writeString(dir.resolve("V4__copy.sql"), "COPY f1 (id) FROM STDIN;\n100\n101\n\\.\n");
    Files.writeString(dir.resolve("R__again.sql"), "CREATE OR REPLACE VIEW f5 AS SELECT count(*) FROM f1;\n");
    for (boolean transactional : new boolean[] {true, false}) {
      // It waits for every transaction, that of the lock as well.
      Files.writeString(dir.resolve("V3__index.sql"), "CREATE INDEX " + (transactional ? "" : "CONCURRENTLY ") + "f4 ON f1 (id);\n");
      java.util.function.Function<String, Flyway> flyway = schema -> Flyway.configure().dataSource(JDBC, USER, PASSWORD).locations("filesystem:" + dir).schemas(schema).cleanDisabled(false)
        .configuration(Map.of("flyway.postgresql.transactional.lock", "" + transactional)).load();
      String how = transactional ? ", locks of transactions" : ", locks of sessions";
      test("flyway migrates, validates, cleans" + how, () -> {
        Flyway f = flyway.apply("fly");
        if (f.migrate().migrationsExecuted < 5) throw new AssertionError("migrations are missing");
        f.validate();
        same(0, f.migrate().migrationsExecuted);
        same(0, f.info().pending().length);
        f.clean();
        if (f.migrate().migrationsExecuted < 5) throw new AssertionError("migrations are missing");
        f.clean();
      });
      test("flyway by several at once" + how, () -> {
        ExecutorService many = Executors.newFixedThreadPool(4);
        List<java.util.concurrent.Future<Integer>> all = new ArrayList<>();
        Flyway.configure().dataSource(JDBC, USER, PASSWORD).locations("filesystem:" + dir).schemas("flies").target("2").load().migrate();
        for (int i = 0; i < 4; i++) all.add(many.submit(() -> flyway.apply("flies").migrate().migrationsExecuted));
        int n = 0;
        for (var f : all) n += f.get(50, TimeUnit.SECONDS);
        same(true, n > 0);
        flyway.apply("flies").clean();
      });
    }
    Files.writeString(dir.resolve("log.sql"), "--liquibase formatted sql\n--changeset a:1\nCREATE TABLE l1 (id int PRIMARY KEY, v text);\n--rollback DROP TABLE l1;\n--changeset a:2\nINSERT INTO l1 VALUES (1, 'x');\n--rollback DELETE FROM l1;\n"
      + "--changeset a:3 runInTransaction:false\nCREATE INDEX CONCURRENTLY l2 ON l1 (v);\n--rollback DROP INDEX l2;\n");
    test("liquibase updates, tells, rolls back", () -> {
      try (java.sql.Connection c = DriverManager.getConnection(JDBC, USER, PASSWORD)) {
        var database = liquibase.database.DatabaseFactory.getInstance().findCorrectDatabaseImplementation(new liquibase.database.jvm.JdbcConnection(c));
        var l = new liquibase.Liquibase("log.sql", new liquibase.resource.DirectoryResourceAccessor(dir), database);
        l.update("");
        same(0, l.listUnrunChangeSets(null, null).size());
        l.tag("t");
        l.rollback(3, "");
        l.update("");
        l.dropAll();
      }
    });
  }

  // Debezium

  static void debezium() {
    test("debezium takes a snapshot and follows", () -> {
      if (System.getenv("REPLICATOR") == null) return;
      try (java.sql.Connection c = DriverManager.getConnection(JDBC, USER, PASSWORD); java.sql.Statement s = c.createStatement()) {
        s.execute("DROP TABLE IF EXISTS d1");
        s.execute("CREATE TABLE d1 (id int PRIMARY KEY, v text)");
        s.execute("INSERT INTO d1 VALUES (1, 'before')");
        s.execute("GRANT ALL ON d1 TO replicator");
        s.execute("CREATE PUBLICATION dbz FOR TABLE d1");
        Properties p = new Properties();
        Map.of("name", "e", "connector.class", "io.debezium.connector.postgresql.PostgresConnector", "offset.storage", "org.apache.kafka.connect.storage.MemoryOffsetBackingStore", "database.hostname", HOST,
          "database.port", "" + PORT, "database.user", System.getenv("REPLICATOR"), "database.password", PASSWORD, "database.dbname", DATABASE, "topic.prefix", "t", "plugin.name", "pgoutput").forEach(p::setProperty);
        Map.of("publication.name", "dbz", "publication.autocreate.mode", "disabled", "slot.name", "dbz", "table.include.list", "public.d1", "database.sslmode", "disable", "slot.drop.on.stop", "true", "poll.interval.ms", "20").forEach(p::setProperty);
        var heard = new LinkedBlockingQueue<String>();
        String[] said = {null};
        DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class).using(p).using((ok, message, error) -> said[0] = message + " " + error).notifying(e -> heard.add("" + e.value())).build();
        Thread t = new Thread(engine);
        t.setDaemon(true);
        t.start();
        String first = heard.poll(40, TimeUnit.SECONDS);
        if (first == null || !first.contains("before")) throw new AssertionError("the snapshot: " + first + "; " + said[0]);
        s.execute("INSERT INTO d1 SELECT g, 'after' || g FROM generate_series(2, 100) g");
        s.execute("UPDATE d1 SET v = 'changed' WHERE id = 1");
        int n = 0;
        String last = "";
        while (n < 100 && (last = heard.poll(20, TimeUnit.SECONDS)) != null) n++;
        same(100, n);
        same(true, last.contains("changed"));
        engine.close();
      }
    });
  }
}
