"""What psycopg 3 can do, for every way it prepares and sends statements."""
import asyncio
import datetime as dt
import decimal
import os
import threading
import uuid

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
made = iter(range(10**6))


def table(c, columns):
    name = f"psycopg_{next(made)}"
    c.execute(f"CREATE TABLE {name} ({columns})")
    return name


@pytest.fixture(params=["threshold 5", "threshold 0", "never prepared", "binary", "client cursor", "autocommit"])
def conn(request):
    with psycopg.connect("", autocommit=request.param == "autocommit") as c:
        c.prepare_threshold = {"threshold 0": 0, "never prepared": None}.get(request.param, 5)
        if request.param == "client cursor":
            c.cursor_factory = psycopg.ClientCursor
        c.binary_results = request.param == "binary"
        yield c


@pytest.fixture
def auto():
    with psycopg.connect("", autocommit=True) as c:
        yield c


def test_types(conn):
    values = [1, "ü", decimal.Decimal("1.50"), b"\x00\xff", dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc), True, [1, 2], uuid.UUID(int=7), None, dt.timedelta(1), 1.5]
    names = ["int", "text", "numeric", "bytea", "timestamptz", "bool", "int[]", "uuid", "text", "interval", "float8"]
    q = "SELECT " + ", ".join(f"%s::{n}" for n in names)
    for _ in range(12):
        binary = conn.binary_results and conn.cursor_factory is not psycopg.ClientCursor
        assert list(conn.execute(q, values, binary=binary).fetchone()) == values


def test_json(conn):
    assert conn.execute("SELECT %s::jsonb", [Jsonb({"a": [1]})]).fetchone()[0] == {"a": [1]}


def test_many_statements(conn):
    for _ in range(2):
        for i in range(150):
            assert conn.execute(f"SELECT %s::int + {i}", [1]).fetchone()[0] == i + 1


def test_executemany(conn):
    t = table(conn, "a int PRIMARY KEY, b text")
    with conn.cursor() as cur:
        cur.executemany(f"INSERT INTO {t} VALUES (%s, %s)", [(i, "x") for i in range(500)])
        assert cur.rowcount == 500
        cur.executemany(f"INSERT INTO {t} VALUES (%s, %s) RETURNING a", [(i, "x") for i in range(500, 510)], returning=True)
        got = [cur.fetchone()[0]]
        while cur.nextset():
            got.append(cur.fetchone()[0])
        assert got == list(range(500, 510))


def test_transactions(conn):
    t = table(conn, "a int")
    conn.commit()
    with conn.transaction():
        conn.execute(f"INSERT INTO {t} VALUES (1)")
        with pytest.raises(errors.DivisionByZero):
            with conn.transaction():
                conn.execute(f"INSERT INTO {t} VALUES (2)")
                conn.execute("SELECT 1/0")
        with conn.transaction(force_rollback=True):
            conn.execute(f"INSERT INTO {t} VALUES (3)")
    assert conn.execute(f"SELECT array_agg(a) FROM {t}").fetchone()[0] == [1]


def test_failed_transaction(conn):
    with pytest.raises(errors.UndefinedTable):
        conn.execute("SELECT * FROM nowhere")
    if not conn.autocommit:
        with pytest.raises(errors.InFailedSqlTransaction):
            conn.execute("SELECT 1")
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_isolation(auto):
    auto.isolation_level, auto.read_only, auto.deferrable = psycopg.IsolationLevel.SERIALIZABLE, True, True
    with auto.transaction():
        assert auto.execute("SHOW transaction_isolation").fetchone()[0] == "serializable"
        assert auto.execute("SHOW transaction_read_only").fetchone()[0] == "on"
        with pytest.raises(errors.ReadOnlySqlTransaction):
            with auto.transaction():
                auto.execute("CREATE TABLE nothing ()")


def test_server_cursor(conn):
    with conn.transaction():
        with conn.cursor("named") as cur:
            cur.itersize = 7
            cur.execute("SELECT n FROM generate_series(1, %s) n", [50])
            assert sum(r[0] for r in cur) == 1275
        with conn.cursor("scrolling", scrollable=True) as cur:
            cur.execute("SELECT n FROM generate_series(1, 50) n")
            cur.scroll(10)
            assert cur.fetchone() == (11,)
            cur.scroll(0, "absolute")
            assert cur.fetchone() == (1,)


def test_cursor_with_hold(auto):
    with auto.cursor("held", withhold=True) as cur:
        cur.execute("SELECT n FROM generate_series(1, 50) n")
        assert len(cur.fetchmany(20)) == 20
        assert len(cur.fetchall()) == 30


def test_stream(conn):
    with conn.cursor() as cur:
        assert sum(r[0] for r in cur.stream("SELECT n FROM generate_series(1, %s) n", [200])) == 20100


def test_stream_left_early(conn):
    with conn.cursor() as cur:
        for r in cur.stream("SELECT n FROM generate_series(1, 100000) n"):
            break
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(not psycopg.Pipeline.is_supported(), reason="libpq without pipelines")
class TestPipelines:
    def test_results(self, conn):
        if conn.cursor_factory is psycopg.ClientCursor:
            return
        with conn.pipeline():
            curs = [conn.execute("SELECT %s::int", [i]) for i in range(100)]
        assert [c.fetchone()[0] for c in curs] == list(range(100))

    def test_error(self, conn):
        if conn.cursor_factory is psycopg.ClientCursor:
            return
        with pytest.raises(errors.DivisionByZero):
            with conn.pipeline():
                conn.execute("SELECT %s::int", [1])
                conn.execute("SELECT 1/%s::int", [0])
                conn.execute("SELECT %s::int", [2])
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)

    def test_syncs(self, conn):
        if conn.cursor_factory is psycopg.ClientCursor:
            return
        with conn.pipeline() as p:
            a = conn.execute("SELECT 1")
            p.sync()
            b = conn.execute("SELECT 2")
            assert (a.fetchone(), b.fetchone()) == ((1,), (2,))

    def test_transactions(self, auto):
        t = table(auto, "a int")
        with auto.pipeline():
            with auto.transaction():
                auto.execute(f"INSERT INTO {t} VALUES (%s)", [1])
            with auto.transaction(force_rollback=True):
                auto.execute(f"INSERT INTO {t} VALUES (%s)", [2])
            auto.execute(f"INSERT INTO {t} VALUES (%s)", [3])
        assert auto.execute(f"SELECT sum(a) FROM {t}").fetchone()[0] == 4


def test_copy(conn):
    t = table(conn, "a int, b text")
    with conn.cursor() as cur:
        with cur.copy(f"COPY {t} FROM STDIN") as copy:
            for i in range(1000):
                copy.write_row((i, "x"))
        with cur.copy(f"COPY {t} FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((-1, None))
        with cur.copy(f"COPY (SELECT a FROM {t} WHERE a < 2 ORDER BY a) TO STDOUT") as copy:
            assert [r for r in copy.rows()] == [("-1",), ("0",), ("1",)]
        with cur.copy("COPY (SELECT %s::int + n FROM generate_series(1, 3) n) TO STDOUT", [5]) as copy:
            assert b"".join(copy) == b"6\n7\n8\n"


def test_copy_errors(conn):
    t = table(conn, "a int")
    conn.commit()
    with pytest.raises(errors.InvalidTextRepresentation):
        with conn.cursor().copy(f"COPY {t} FROM STDIN") as copy:
            copy.write("x\n")
    conn.rollback()
    with pytest.raises(ZeroDivisionError):
        with conn.cursor().copy(f"COPY {t} FROM STDIN") as copy:
            copy.write("1\n")
            raise ZeroDivisionError
    conn.rollback()
    assert conn.execute(f"SELECT count(*) FROM {t}").fetchone() == (0,)


def test_several_statements(conn):
    cur = conn.execute("SELECT 1; SELECT 2")
    assert cur.fetchone() == (1,) and cur.nextset() and cur.fetchone() == (2,) and not cur.nextset()


def test_compose(conn):
    t = table(conn, "a int")
    conn.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(t), sql.Identifier("a"), sql.Literal(5)))
    assert conn.execute(f"SELECT a FROM {t}").fetchone() == (5,)


def test_prepare_explicit(conn):
    for i in range(5):
        assert conn.execute("SELECT %s::int", [i], prepare=True).fetchone() == (i,)


def test_ddl_between(auto):
    t = table(auto, "a int")
    auto.execute(f"INSERT INTO {t} VALUES (1)")
    for _ in range(8):
        auto.execute(f"SELECT a FROM {t} WHERE a = %s", [1])
    auto.execute(f"ALTER TABLE {t} ADD b int")
    auto.execute(f"DROP TABLE {t}")
    auto.execute(f"CREATE TABLE {t} (c text, a int)")
    assert auto.execute(f"SELECT a FROM {t} WHERE a = %s", [1]).fetchall() == []


def test_notices(conn):
    said = []
    conn.add_notice_handler(lambda d: said.append((d.severity, d.message_primary, d.sqlstate)))
    conn.execute("DO $$ BEGIN RAISE WARNING 'words' USING ERRCODE = '01ABC'; END $$")
    assert said == [("WARNING", "words", "01ABC")]


def test_diagnostics(conn):
    t = table(conn, "a int CONSTRAINT has_to CHECK (a > 0)")
    with pytest.raises(errors.CheckViolation) as e:
        conn.execute(f"INSERT INTO {t} VALUES (-1)")
    assert (e.value.diag.constraint_name, e.value.diag.table_name, e.value.diag.schema_name) == ("has_to", t, "public")


def test_notify(auto):
    auto.execute("LISTEN psycopg_channel")
    with psycopg.connect("", autocommit=True) as other:
        other.execute("NOTIFY psycopg_channel, 'words'")
    assert [n.payload for n in auto.notifies(timeout=3, stop_after=1)] == ["words"]


def test_notify_of_its_own(auto):
    auto.execute("LISTEN psycopg_own")
    auto.execute("NOTIFY psycopg_own, 'words'")
    assert [n.pid for n in auto.notifies(timeout=3, stop_after=1)] == [auto.info.backend_pid]


def test_cancel(auto):
    threading.Timer(0.3, auto.cancel_safe).start()
    with pytest.raises(errors.QueryCanceled):
        auto.execute("SELECT pg_sleep(20)")
    assert auto.execute("SELECT 1").fetchone() == (1,)


def test_temporary_table(auto):
    auto.execute("CREATE TEMP TABLE t (a int)")
    auto.execute("INSERT INTO t VALUES (1)")
    assert auto.execute("SELECT a FROM t").fetchone() == (1,)


def test_settings(auto):
    auto.execute("SET work_mem = '11MB'")
    auto.execute("SELECT set_config('search_path', 'pg_catalog', false)")
    assert auto.execute("SHOW work_mem").fetchone() == ("11MB",)
    assert auto.execute("SHOW search_path").fetchone() == ("pg_catalog",)
    auto.execute("SET client_encoding = 'LATIN1'")
    assert auto.info.encoding == "iso8859-1"
    assert auto.execute("SELECT %s::text", ["é"]).fetchone() == ("é",)


def test_two_phases(conn):
    if conn.autocommit:
        return
    t = table(conn, "a int")
    conn.commit()
    xid = conn.xid(1, t, "branch")
    conn.tpc_begin(xid)
    conn.execute(f"INSERT INTO {t} VALUES (1)")
    conn.tpc_prepare()
    conn.tpc_commit()
    assert conn.execute(f"SELECT count(*) FROM {t}").fetchone() == (1,)


def test_reported_parameters(auto):
    assert auto.info.parameter_status("standard_conforming_strings") == "on"
    auto.execute("SET TIME ZONE 'Asia/Tokyo'")
    assert str(auto.info.timezone) == "Asia/Tokyo"
    auto.execute("SET application_name = 'mine'")
    assert auto.info.parameter_status("application_name") == "mine"


def test_options():
    with psycopg.connect("", options="-c work_mem=9MB -c search_path=pg_catalog") as c:
        assert c.execute("SHOW work_mem").fetchone() == ("9MB",)
        assert c.execute("SHOW search_path").fetchone() == ("pg_catalog",)


def test_adapters_of_types(auto):
    from psycopg.types.composite import CompositeInfo, register_composite
    from psycopg.types.enum import EnumInfo
    auto.execute("DROP TYPE IF EXISTS psycopg_pair, psycopg_mood")
    auto.execute("CREATE TYPE psycopg_pair AS (a int, b text)")
    auto.execute("CREATE TYPE psycopg_mood AS ENUM ('sad', 'ok')")
    assert EnumInfo.fetch(auto, "psycopg_mood").labels == ["sad", "ok"]
    register_composite(CompositeInfo.fetch(auto, "psycopg_pair"), auto)
    assert tuple(auto.execute("SELECT (1, 'x')::psycopg_pair").fetchone()[0]) == (1, "x")


def test_large_values(conn):
    assert len(conn.execute("SELECT %s::text", ["x" * 3_000_000]).fetchone()[0]) == 3_000_000


def test_rows(conn):
    with conn.cursor(row_factory=dict_row) as cur:
        assert cur.execute("SELECT 1 AS a, 2 AS b").fetchone() == {"a": 1, "b": 2}
        assert [d.name for d in cur.description] == ["a", "b"]


def test_pool():
    with ConnectionPool("", min_size=2, max_size=6, check=ConnectionPool.check_connection) as pool:
        got = []

        def work(i):
            for n in range(20):
                with pool.connection() as c:
                    got.append(c.execute("SELECT %s::int", [i * 100 + n]).fetchone()[0] == i * 100 + n)

        threads = [threading.Thread(target=work, args=[i]) for i in range(12)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert got == [True] * 240


def test_async():
    async def main():
        async with await psycopg.AsyncConnection.connect("", autocommit=True) as c:
            async with c.pipeline():
                curs = [await c.execute("SELECT %s::int", [i]) for i in range(20)]
            assert [(await x.fetchone())[0] for x in curs] == list(range(20))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(c.execute("SELECT pg_sleep(20)"), 0.3)
            assert await (await c.execute("SELECT 1")).fetchone() == (1,)

    asyncio.run(main())
