// What postgres.js can do. It pipelines, prepares every statement under a name, and has several connections.
const { test } = require('node:test')
const assert = require('node:assert')
const postgres = require('postgres')

const url = process.env.URL
const on = (name, f, options) => test(name, { timeout: 10000 }, async () => {
  const sql = postgres(url, { max: 4, onnotice: () => {}, ...options })
  try { await f(sql) } finally { await sql.end({ timeout: 2 }) }
})
const code = want => e => { assert.strictEqual(e.code, want); return true }
let n = 0
const table = async (sql, columns) => { const t = `js_${++n}_${process.pid}`; await sql.unsafe(`CREATE TABLE ${t} (${columns})`); return t }

for (const options of [{}, { prepare: false }, { fetch_types: false }, { max_pipeline: 1 }, { max: 1 }]) {
  const of = ' ' + JSON.stringify(options)
  on('parameters' + of, async sql => {
    const [r] = await sql`SELECT ${1}::int AS i, ${'ü'}::text AS t, ${sql.json({ k: [1] })}::jsonb AS j, ${Buffer.from([1, 2])}::bytea AS b, ${null}::text AS n`
    assert.deepStrictEqual({ ...r }, { i: 1, t: 'ü', j: { k: [1] }, b: Buffer.from([1, 2]), n: null })
  }, options)
  on('many at once' + of, async sql => {
    const r = await Promise.all(Array.from({ length: 300 }, (_, i) => sql`SELECT ${i}::int AS a`))
    assert.deepStrictEqual(r.map(x => x[0].a), Array.from({ length: 300 }, (_, i) => i))
  }, options)
  on('errors between' + of, async sql => {
    const r = await Promise.allSettled(Array.from({ length: 60 }, (_, i) => sql`SELECT 1 / (${i}::int % 3) AS a`))
    assert.deepStrictEqual(r.map(x => x.status), Array.from({ length: 60 }, (_, i) => i % 3 ? 'fulfilled' : 'rejected'))
  }, options)
  on('insert helpers' + of, async sql => {
    const t = await table(sql, 'a int, b text')
    await sql`INSERT INTO ${sql(t)} ${sql([{ a: 1, b: 'x' }, { a: 2, b: null }])}`
    await sql`UPDATE ${sql(t)} SET ${sql({ b: 'y' })} WHERE a IN ${sql([1, 2])}`
    assert.deepStrictEqual((await sql`SELECT a, b FROM ${sql(t)} ORDER BY a`).map(x => ({ ...x })), [{ a: 1, b: 'y' }, { a: 2, b: 'y' }])
  }, options)
  on('transaction' + of, async sql => {
    const t = await table(sql, 'a int')
    await sql.begin(async tx => { await tx`INSERT INTO ${tx(t)} VALUES (1)`; await tx.savepoint(s => s`INSERT INTO ${s(t)} VALUES (2)`) })
    await assert.rejects(sql.begin(async tx => { await tx`INSERT INTO ${tx(t)} VALUES (3)`; await tx`SELECT 1/0` }), code('22012'))
    await sql.begin(async tx => { await tx.savepoint(s => s`SELECT 1/0`).catch(() => {}); await tx`INSERT INTO ${tx(t)} VALUES (4)` })
    assert.deepStrictEqual((await sql`SELECT a FROM ${sql(t)} ORDER BY a`).map(x => x.a), [1, 2, 4])
  }, options)
  on('pipelined transaction' + of, async sql => {
    const r = await sql.begin(tx => [tx`SELECT 1 AS a`, tx`SELECT ${2}::int AS a`, tx`SELECT 3 AS a`])
    assert.deepStrictEqual(r.map(x => x[0].a), [1, 2, 3])
  }, options)
  on('arrays and types' + of, async sql => {
    const [r] = await sql`SELECT ${sql.array([1, 2], 1007)}::int[] AS a, ${new Date(0)}::timestamptz AS d, ${10n}::bigint AS b, ${true}::bool AS o`
    assert.deepStrictEqual([[...r.a], +r.d, r.b, r.o], [[1, 2], 0, '10', true])
  }, options)
  on('cursor' + of, async sql => {
    let rows = 0
    await sql`SELECT n FROM generate_series(1, 100) n`.cursor(13, got => { rows += got.length })
    assert.strictEqual(rows, 100)
    for await (const got of sql`SELECT n FROM generate_series(1, 100) n`.cursor(10)) { if (got[0].n > 20) break }
    assert.strictEqual((await sql`SELECT 1 AS a`)[0].a, 1)
  }, options)
  on('forEach, describe, raw, values' + of, async sql => {
    let sum = 0
    await sql`SELECT n FROM generate_series(1, 10) n`.forEach(r => { sum += r.n })
    assert.strictEqual(sum, 55)
    assert.deepStrictEqual((await sql`SELECT 1 AS a, ${'x'}::text AS b`.describe()).columns.map(c => c.name), ['a', 'b'])
    assert.deepStrictEqual((await sql`SELECT 1, 2`.values())[0], [1, 2])
    assert.ok(Buffer.isBuffer((await sql`SELECT 1`.raw())[0][0]))
  }, options)
  on('simple and unsafe' + of, async sql => {
    const r = await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()
    assert.deepStrictEqual(r.map(x => x.length), [1, 1])
    assert.strictEqual((await sql.unsafe('SELECT $1::int AS a', [5], { prepare: true }))[0].a, 5)
  }, options)
  on('cancel' + of, async sql => {
    const q = sql`SELECT pg_sleep(20)`
    setTimeout(() => q.cancel(), 300)
    await assert.rejects(q, code('57014'))
    assert.strictEqual((await sql`SELECT 1 AS a`)[0].a, 1)
  }, options)
  on('COPY' + of, async sql => {
    const t = await table(sql, 'a int, b text')
    const w = await sql`COPY ${sql(t)} FROM STDIN`.writable()
    for (let i = 0; i < 1000; i++) w.write(`${i}\trow\n`)
    await new Promise((resolve, reject) => { w.on('error', reject); w.end(); w.on('finish', resolve) })
    let text = ''
    for await (const b of await sql`COPY (SELECT a FROM ${sql(t)} ORDER BY a LIMIT 3) TO STDOUT`.readable()) text += b
    assert.strictEqual(text, '0\n1\n2\n')
  }, options)
  if (options.fetch_types !== false) on('reserve' + of, /* without, it waits for ever, of PostgreSQL, too */ async sql => {
    const one = await sql.reserve()
    await one`SET work_mem = '11MB'`
    assert.strictEqual((await one`SHOW work_mem`)[0].work_mem, '11MB')
    one.release()
  }, options)
}
on('listen and notify', async sql => {
  let heard
  const got = new Promise((resolve, reject) => { heard = resolve; setTimeout(reject, 3000, new Error('nothing heard')).unref() })
  await sql.listen('js_channel', heard)
  await sql.notify('js_channel', 'words')
  assert.strictEqual(await got, 'words')
})
on('temporary table of a reserved connection', async sql => {
  const one = await sql.reserve()
  await one`CREATE TEMP TABLE js_temp (a int)`
  await one`INSERT INTO js_temp VALUES (1)`
  assert.strictEqual((await one`SELECT a FROM js_temp`)[0].a, 1)
  one.release()
})
on('large object', async sql => {
  const lo = await sql.largeObject()
  await lo.write(Buffer.from('abc')); await lo.seek(0)
  assert.strictEqual(String((await lo.read(10))[0].data), 'abc')
  await lo.close()
})
on('prepared transaction', async sql => {
  const t = await table(sql, 'a int')
  await sql.begin(async tx => { await tx`INSERT INTO ${tx(t)} VALUES (1)`; await tx.prepare('js_two_phases') })
  await sql`COMMIT PREPARED 'js_two_phases'`
  assert.strictEqual((await sql`SELECT a FROM ${sql(t)}`)[0].a, 1)
})
on('connection parameters', async sql => {
  assert.strictEqual((await sql`SHOW search_path`)[0].search_path, 'pg_catalog')
  assert.strictEqual((await sql`SHOW application_name`)[0].application_name, 'mine')
}, { connection: { search_path: 'pg_catalog', application_name: 'mine' } })
on('idle time-out, then again', async sql => {
  await sql`SELECT 1`
  await new Promise(resolve => setTimeout(resolve, 1500))
  assert.strictEqual((await sql`SELECT 1 AS a`)[0].a, 1)
}, { idle_timeout: 1 })
on('DDL between', async sql => {
  const t = await table(sql, 'a int')
  await sql`INSERT INTO ${sql(t)} VALUES (1)`
  await sql.unsafe(`SELECT a FROM ${t}`, [], { prepare: true })
  await sql.unsafe(`ALTER TABLE ${t} ADD b int`)
  assert.strictEqual((await sql.unsafe(`SELECT a FROM ${t}`, [], { prepare: true }))[0].a, 1)
})
