

# A database of its own for each test is one that pgkennel does not know: they have one after another the same.
@pytest_asyncio.fixture
async def dsn() -> AsyncGenerator[str, None]:
    conn = await asyncpg.connect(os.environ["URL"])
    await conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await Queries(AsyncpgDriver(conn)).install()
    await conn.close()
    yield os.environ["URL"]
