// TypeORM: entities, relations, transactions, migrations.
require('reflect-metadata')
const { test } = require('node:test')
const assert = require('node:assert')
const { DataSource, EntitySchema, In } = require('typeorm')

let n = 0
const on = (name, f, options) => test('TypeORM, ' + name, { timeout: 60000 }, async () => {
  const at = `orm_${process.pid}_${++n}`
  const Author = new EntitySchema({ name: 'Author', tableName: at + '_author', columns: { id: { type: Number, primary: true, generated: true }, name: { type: String, unique: true },
    about: { type: 'jsonb', nullable: true }, tags: { type: 'text', array: true, nullable: true }, made: { type: 'timestamptz', createDate: true }, v: { type: Number, version: true } },
    relations: { books: { type: 'one-to-many', target: 'Book', inverseSide: 'author', cascade: true } } })
  const Book = new EntitySchema({ name: 'Book', tableName: at + '_book', columns: { id: { type: 'uuid', primary: true, generated: 'uuid' }, title: { type: String }, price: { type: 'numeric', nullable: true } },
    relations: { author: { type: 'many-to-one', target: 'Author', inverseSide: 'books', onDelete: 'CASCADE' } } })
  const db = new DataSource({ type: 'postgres', url: process.env.URL, entities: [Author, Book], synchronize: true, ...options })
  await db.initialize()
  try { await f(db) } finally { await db.destroy() }
})
on('save, find, relations, remove', async db => {
  const a = await db.getRepository('Author').save({ name: 'ü', about: { k: [1] }, tags: ['x'], books: [{ title: 'one', price: '1.50' }, { title: 'two' }] })
  const got = await db.getRepository('Author').findOne({ where: { id: a.id }, relations: { books: true } })
  assert.deepStrictEqual([got.about, got.tags, got.books.length, got.v], [{ k: [1] }, ['x'], 2, 1])
  got.name = 'v'; await db.getRepository('Author').save(got)
  await db.getRepository('Author').remove(got)
  assert.strictEqual(await db.getRepository('Book').count(), 0)
})
on('transactions', async db => {
  await db.transaction(m => m.save('Author', { name: 'a' }))
  await assert.rejects(db.transaction(async m => { await m.save('Author', { name: 'b' }); throw new Error('no') }))
  await db.transaction('SERIALIZABLE', async m => { await m.find('Author'); await m.transaction(x => x.save('Author', { name: 'c' })) })
  assert.strictEqual(await db.getRepository('Author').count(), 2)
})
on('query builder, stream, upsert', async db => {
  await db.getRepository('Author').insert(Array.from({ length: 30 }, (_, i) => ({ name: 'n' + i })))
  await db.getRepository('Author').upsert({ name: 'n1', tags: ['y'] }, ['name'])
  const q = db.getRepository('Author').createQueryBuilder('a')
  assert.strictEqual((await q.where({ name: In(['n1', 'n2']) }).orderBy('a.id').getMany()).length, 2)
  assert.strictEqual((await db.query('SELECT $1::int AS a', [5]))[0].a, 5)
})
on('locks and savepoints of a query runner', async db => {
  const r = db.createQueryRunner(); await r.connect(); await r.startTransaction()
  await r.manager.save('Author', { name: 'a' }); await r.startTransaction(); await r.manager.save('Author', { name: 'b' }); await r.rollbackTransaction(); await r.commitTransaction()
  await r.startTransaction(); await r.manager.findOne('Author', { where: { name: 'a' }, lock: { mode: 'pessimistic_write' } }); await r.commitTransaction(); await r.release()
  assert.strictEqual(await db.getRepository('Author').count(), 1)
})
on('schema log, migrations', async db => {
  assert.deepStrictEqual((await db.driver.createSchemaBuilder().log()).upQueries, [])
  const r = db.createQueryRunner()
  const t = db.getMetadata('Author').tableName
  await r.query(`ALTER TABLE "${t}" ADD extra int`)
  assert.ok((await r.getTable(t)).columns.some(c => c.name === 'extra'))
  assert.strictEqual((await db.driver.createSchemaBuilder().log()).upQueries.length, 1)
  await db.synchronize(); await r.release()
  await db.getRepository('Author').find()
})
on('many at once', async db => {
  await Promise.all(Array.from({ length: 100 }, (_, i) => db.getRepository('Author').save({ name: 'n' + i })))
  assert.strictEqual(await db.getRepository('Author').count(), 100)
}, { poolSize: 10 })
