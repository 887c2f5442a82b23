// What node-postgres can do, each on a connection of its own.
const { test } = require('node:test')
const assert = require('node:assert')
const { Client, Pool, types } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')
const { pipeline } = require('node:stream/promises')
const { Readable, Writable } = require('node:stream')

const on = (name, f, options) => test(name, { timeout: 30000 }, async () => {
  const c = new Client(options)
  await c.connect()
  c.on('error', () => {})
  try { await f(c) } finally { await c.end().catch(() => {}) }
})
const code = want => e => { assert.strictEqual(e.code, want); return true }
let n = 0
const table = async (c, columns) => { const t = `node_${++n}_${process.pid}`; await c.query(`CREATE TABLE ${t} (${columns})`); return t }

on('simple query', async c => assert.deepStrictEqual((await c.query('SELECT 1 AS a, NULL AS b, \'x\' AS c')).rows, [{ a: 1, b: null, c: 'x' }]))
on('several statements', async c => {
  const r = await c.query('SELECT 1 AS a; SELECT 2 AS b; CREATE TABLE IF NOT EXISTS node_several (a int)')
  assert.deepStrictEqual(r.map(x => x.command), ['SELECT', 'SELECT', 'CREATE'])
})
on('parameters', async c => {
  const r = await c.query('SELECT $1::int AS i, $2::text AS t, $3::jsonb AS j, $4::int[] AS a, $5::bytea AS b, $6::timestamptz AS d, $7::numeric AS n, $8::bool AS o',
    [1, 'ü', { k: [1] }, [1, 2], Buffer.from([0, 255]), new Date(0), '1.50', true])
  assert.deepStrictEqual({ ...r.rows[0], d: +r.rows[0].d }, { i: 1, t: 'ü', j: { k: [1] }, a: [1, 2], b: Buffer.from([0, 255]), d: 0, n: '1.50', o: true })
})
on('row mode array', async c => assert.deepStrictEqual((await c.query({ text: 'SELECT 1, 2', rowMode: 'array' })).rows, [[1, 2]]))
on('binary results', async c => assert.deepStrictEqual((await c.query({ text: 'SELECT $1::int AS a', values: [7], binary: true })).rows, [{ a: 7 }]))
on('named statements', async c => {
  for (let i = 0; i < 20; i++) assert.strictEqual((await c.query({ name: 'one', text: 'SELECT $1::int + 1 AS a', values: [i] })).rows[0].a, i + 1)
})
on('many named statements', async c => {
  for (let round = 0; round < 2; round++) for (let i = 0; i < 100; i++) assert.strictEqual((await c.query({ name: 's' + i, text: `SELECT $1::int + ${i} AS a`, values: [1] })).rows[0].a, i + 1)
})
on('named statements, DDL between', async c => {
  const t = await table(c, 'a int')
  await c.query(`INSERT INTO ${t} VALUES (1)`)
  const q = { name: 'star', text: `SELECT a FROM ${t}` }
  await c.query(q)
  await c.query(`ALTER TABLE ${t} ADD b int`)
  assert.strictEqual((await c.query(q)).rows[0].a, 1)
})
on('queries queued without waiting', async c => {
  const r = await Promise.all(Array.from({ length: 50 }, (_, i) => c.query('SELECT $1::int AS a', [i])))
  assert.deepStrictEqual(r.map(x => x.rows[0].a), Array.from({ length: 50 }, (_, i) => i))
})
on('errors', async c => {
  await assert.rejects(c.query('SELECT 1/0'), code('22012'))
  await assert.rejects(c.query('SELECT $1::int', ['x']), code('22P02'))
  await assert.rejects(c.query('SELECT * FROM nowhere'), code('42P01'))
  await assert.rejects(c.query('SELEC'), e => { assert.strictEqual(e.position, '1'); return true })
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
on('fields of an error', async c => {
  const t = await table(c, 'a int NOT NULL CONSTRAINT "has to" CHECK (a > 0)')
  await assert.rejects(c.query(`INSERT INTO ${t} VALUES (-1)`), e => { assert.deepStrictEqual([e.code, e.constraint, e.table, e.schema], ['23514', 'has to', t, 'public']); return true })
  await assert.rejects(c.query(`INSERT INTO ${t} VALUES (NULL)`), e => { assert.deepStrictEqual([e.code, e.column], ['23502', 'a']); return true })
})
on('transactions', async c => {
  const t = await table(c, 'a int')
  await c.query('BEGIN'); await c.query(`INSERT INTO ${t} VALUES (1)`); await c.query('ROLLBACK')
  await c.query('BEGIN'); await c.query(`INSERT INTO ${t} VALUES ($1)`, [2]); await c.query('SAVEPOINT s')
  await assert.rejects(c.query('SELECT 1/0'), code('22012'))
  await assert.rejects(c.query('SELECT 1'), code('25P02'))
  await c.query('ROLLBACK TO s'); await c.query('COMMIT')
  assert.deepStrictEqual((await c.query(`SELECT a FROM ${t}`)).rows, [{ a: 2 }])
})
on('notices', async c => {
  const said = new Promise(resolve => c.once('notice', resolve))
  await c.query("DO $$ BEGIN RAISE NOTICE 'words'; END $$")
  assert.strictEqual((await said).message, 'words')
})
on('cursor', async c => {
  const cur = c.query(new Cursor('SELECT n FROM generate_series(1, 25) n'))
  assert.strictEqual((await cur.read(10)).length, 10)
  assert.strictEqual((await cur.read(10)).length, 10)
  assert.strictEqual((await cur.read(10)).length, 5)
  assert.strictEqual((await cur.read(10)).length, 0)
  await cur.close()
})
on('cursor closed early', async c => {
  const cur = c.query(new Cursor('SELECT n FROM generate_series(1, 100000) n'))
  await cur.read(10); await cur.close()
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
on('cursor, an error in a later row', async c => {
  const cur = c.query(new Cursor('SELECT 1/(20 - n) FROM generate_series(1, 25) n'))
  await cur.read(10)
  await assert.rejects(cur.read(10), code('22012'))
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
on('cursor in a transaction', async c => {
  await c.query('BEGIN')
  const cur = c.query(new Cursor('SELECT n FROM generate_series(1, 30) n'))
  let rows = 0, got
  do { got = await cur.read(7); rows += got.length } while (got.length)
  await c.query('COMMIT')
  assert.strictEqual(rows, 30)
})
on('query stream', async c => {
  let sum = 0
  for await (const row of c.query(new QueryStream('SELECT n FROM generate_series(1, $1::int) n', [1000], { batchSize: 50 }))) sum += row.n
  assert.strictEqual(sum, 500500)
})
on('query stream, left early', async c => {
  for await (const row of c.query(new QueryStream('SELECT n FROM generate_series(1, 1000000) n'))) if (row.n > 10) break
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
on('COPY FROM and TO', async c => {
  const t = await table(c, 'a int, b text')
  await pipeline(Readable.from(Array.from({ length: 5000 }, (_, i) => `${i}\trow ${i}\n`)), c.query(copyFrom(`COPY ${t} FROM STDIN`)))
  let text = ''
  await pipeline(c.query(copyTo(`COPY (SELECT * FROM ${t} ORDER BY a LIMIT 2) TO STDOUT CSV`)), new Writable({ write (b, _, done) { text += b; done() } }))
  assert.strictEqual(text, '0,row 0\n1,row 1\n')
})
on('COPY FROM that fails', async c => {
  const t = await table(c, 'a int')
  await assert.rejects(pipeline(Readable.from(['1\nx\n']), c.query(copyFrom(`COPY ${t} FROM STDIN`))), code('22P02'))
  assert.strictEqual((await c.query(`SELECT count(*)::int AS n FROM ${t}`)).rows[0].n, 0)
})
on('COPY FROM that the client ends', async c => {
  const t = await table(c, 'a int')
  await assert.rejects(pipeline(new Readable({ read () { this.destroy(new Error('enough')) } }), c.query(copyFrom(`COPY ${t} FROM STDIN`))))
  assert.strictEqual((await c.query(`SELECT count(*)::int AS n FROM ${t}`)).rows[0].n, 0)
})
on('LISTEN and NOTIFY', async c => {
  const heard = new Promise((resolve, reject) => { c.once('notification', resolve); setTimeout(reject, 3000, new Error('nothing heard')).unref() })
  await c.query('LISTEN node_channel')
  const other = new Client(); await other.connect()
  await other.query("SELECT pg_notify('node_channel', 'words')"); await other.end()
  assert.strictEqual((await heard).payload, 'words')
})
on('temporary table', async c => {
  await c.query('CREATE TEMP TABLE node_temp (a int)')
  await c.query('INSERT INTO node_temp VALUES (1)')
  assert.strictEqual((await c.query('SELECT count(*)::int AS n FROM node_temp')).rows[0].n, 1)
})
on('advisory lock', async c => {
  await c.query('SELECT pg_advisory_lock(77)')
  assert.strictEqual((await c.query('SELECT pg_advisory_unlock(77) AS ok')).rows[0].ok, true)
})
on('settings last', async c => {
  await c.query("SET search_path = pg_catalog"); await c.query("SET TIME ZONE 'Asia/Tokyo'")
  assert.strictEqual((await c.query('SHOW search_path')).rows[0].search_path, 'pg_catalog')
  assert.strictEqual((await c.query('SHOW timezone')).rows[0].TimeZone, 'Asia/Tokyo')
})
on('statement_timeout of the client', async c => {
  await assert.rejects(c.query('SELECT pg_sleep(10)'), code('57014'))
}, { statement_timeout: 100 })
on('query_timeout of the client', async c => assert.rejects(c.query('SELECT pg_sleep(10)'), /timeout/), { query_timeout: 100 })
on('options and application_name', async c => {
  assert.strictEqual((await c.query('SHOW work_mem')).rows[0].work_mem, '9MB')
  assert.strictEqual((await c.query('SHOW application_name')).rows[0].application_name, 'mine')
}, { options: '-c work_mem=9MB', application_name: 'mine' })
on('cancel', async c => {
  const q = c.query('SELECT pg_sleep(20)')
  const other = new Client()
  await new Promise(resolve => setTimeout(resolve, 300))
  other.cancel({ ...c, host: c.host, port: c.port, processID: c.processID, secretKey: c.secretKey, activeQuery: c._activeQuery ?? c.activeQuery }, c._activeQuery ?? c.activeQuery)
  await assert.rejects(q, code('57014'))
})
on('large values', async c => {
  const big = 'x'.repeat(5e6)
  assert.strictEqual((await c.query('SELECT $1::text AS t', [big])).rows[0].t.length, 5e6)
})
on('many rows', async c => assert.strictEqual((await c.query('SELECT n, repeat(\'x\', 50) FROM generate_series(1, 50000) n')).rows.length, 50000))
on('custom type parsers', async c => {
  const mine = { getTypeParser: (oid, format) => oid === 20 ? BigInt : types.getTypeParser(oid, format) }
  assert.strictEqual((await c.query({ text: 'SELECT 5::bigint AS a', types: mine })).rows[0].a, 5n)
})
test('pool', { timeout: 60000 }, async () => {
  const pool = new Pool({ max: 8 })
  const r = await Promise.all(Array.from({ length: 200 }, (_, i) => pool.query('SELECT $1::int AS a', [i])))
  assert.deepStrictEqual(r.map(x => x.rows[0].a), Array.from({ length: 200 }, (_, i) => i))
  const c = await pool.connect()
  await c.query('BEGIN'); await c.query('SELECT 1'); await c.query('ROLLBACK'); c.release()
  await pool.end()
})
test('wrong password', async () => assert.rejects(new Client({ password: 'wrong' }).connect(), code('28P01')))

const ca = root => require('node:fs').readFileSync(process.env[root])
on('TLS, verified', async c => assert.strictEqual((await c.query('SELECT length(repeat(\'x\', 2000000)) AS n')).rows[0].n, 2000000),
  { host: 'localhost', ssl: { ca: ca('TLS_ROOT') } })
const refused = (name, options, want) => test(name, { timeout: 30000 }, async () => {
  const c = new Client(options)
  try { await assert.rejects(c.connect(), want) } finally { c.connection.stream.destroy() } // or it keeps the program running
})
// 127.1 is a name to node, which getaddrinfo knows
refused('TLS by another name', { host: '127.1', ssl: { ca: ca('TLS_ROOT') } }, code('ERR_TLS_CERT_ALTNAME_INVALID'))
refused('TLS by another authority', { host: 'localhost', ssl: { ca: ca('TLS_OTHER_ROOT') } }, /certificate/)
