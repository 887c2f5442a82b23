// Sequelize: models, associations, transactions, and what it asks the catalogs.
const { test } = require('node:test')
const assert = require('node:assert')
const { Sequelize, DataTypes, Op, Transaction } = require('sequelize')

const open = options => new Sequelize(process.env.PGDATABASE, process.env.PGUSER, process.env.PGPASSWORD,
  { host: process.env.PGHOST, port: +process.env.PGPORT, dialect: 'postgres', logging: false, ...options })
let n = 0
const on = (name, f, options) => test(name, { timeout: 60000 }, async () => {
  const s = open(options)
  const at = `seq_${process.pid}_${++n}`
  const Author = s.define('Author', { name: { type: DataTypes.STRING, unique: true, allowNull: false }, tags: DataTypes.ARRAY(DataTypes.STRING), about: DataTypes.JSONB, mood: DataTypes.ENUM('sad', 'ok') }, { tableName: at + '_author' })
  const Book = s.define('Book', { title: DataTypes.STRING, price: DataTypes.DECIMAL(10, 2), sold: { type: DataTypes.BIGINT, defaultValue: 0 }, cover: DataTypes.BLOB }, { tableName: at + '_book', paranoid: true, version: true })
  Author.hasMany(Book); Book.belongsTo(Author)
  try { await s.sync(); await f(s, Author, Book) } finally { await s.close() }
})

on('create, find, update, destroy', async (s, Author, Book) => {
  const a = await Author.create({ name: 'ü', tags: ['x', 'y'], about: { k: [1] }, mood: 'ok', Books: [{ title: 'one', price: '1.50', cover: Buffer.from([0, 255]) }] }, { include: Book })
  const got = await Author.findByPk(a.id, { include: Book })
  assert.deepStrictEqual([got.tags, got.about, got.mood, got.Books[0].price, [...got.Books[0].cover]], [['x', 'y'], { k: [1] }, 'ok', '1.50', [0, 255]])
  await got.Books[0].update({ title: 'two' })
  await got.Books[0].destroy()
  assert.strictEqual(await Book.count(), 0)
  assert.strictEqual(await Book.count({ paranoid: false }), 1)
})
on('bulkCreate, upsert, findOrCreate, increment', async (s, Author, Book) => {
  const made = await Author.bulkCreate(Array.from({ length: 50 }, (_, i) => ({ name: 'n' + i })), { returning: true })
  assert.ok(made.every(m => m.id))
  await Author.upsert({ id: made[0].id, name: 'n0', mood: 'sad' })
  const [, created] = await Author.findOrCreate({ where: { name: 'n1' } })
  assert.strictEqual(created, false)
  const [, fresh] = await Author.findOrCreate({ where: { name: 'fresh' } })
  assert.strictEqual(fresh, true)
  const b = await Book.create({ title: 't' }); await b.increment('sold', { by: 3 }); await b.reload()
  assert.strictEqual(b.sold, '3')
})
on('unique violation', async (s, Author) => {
  await Author.create({ name: 'x' })
  await assert.rejects(Author.create({ name: 'x' }), e => e.name === 'SequelizeUniqueConstraintError' && e.fields.name === 'x')
})
on('transactions', async (s, Author) => {
  await s.transaction(async t => { await Author.create({ name: 'a' }, { transaction: t }) })
  await assert.rejects(s.transaction(async t => { await Author.create({ name: 'b' }, { transaction: t }); throw new Error('no') }))
  for (const isolationLevel of Object.values(Transaction.ISOLATION_LEVELS)) {
    await s.transaction({ isolationLevel }, async t => { await Author.findAll({ transaction: t, lock: isolationLevel !== 'READ UNCOMMITTED' }) })
  }
  const outer = await s.transaction()
  const inner = await s.transaction({ transaction: outer })
  await Author.create({ name: 'c' }, { transaction: inner }); await inner.rollback(); await outer.commit()
  assert.strictEqual(await Author.count(), 1)
})
on('queries by operators, raw queries', async (s, Author) => {
  await Author.bulkCreate([{ name: 'abc', tags: ['x'] }, { name: 'abd', about: { k: 1 } }])
  assert.strictEqual(await Author.count({ where: { name: { [Op.iLike]: 'AB%' } } }), 2)
  assert.strictEqual(await Author.count({ where: { tags: { [Op.contains]: ['x'] } } }), 1)
  assert.strictEqual(await Author.count({ where: { about: { k: 1 } } }), 1)
  assert.strictEqual((await s.query('SELECT $1::int AS a', { bind: [5], type: 'SELECT' }))[0].a, 5)
  assert.strictEqual((await s.query('SELECT :a::int AS a', { replacements: { a: 5 }, type: 'SELECT' }))[0].a, 5)
})
on('migrations', async (s, Author) => {
  const q = s.getQueryInterface(); const t = Author.getTableName()
  await q.addColumn(t, 'extra', { type: DataTypes.INTEGER, defaultValue: 1 })
  await q.changeColumn(t, 'extra', { type: DataTypes.BIGINT })
  await q.addIndex(t, ['extra'], { concurrently: true })
  await q.renameColumn(t, 'extra', 'further')
  assert.ok((await q.describeTable(t)).further)
  assert.ok((await q.showIndex(t, {})).length >= 2)
  await q.removeColumn(t, 'further')
  await Author.findAll()
  await s.sync({ alter: true }); await s.sync({ force: true }); await s.drop()
})
on('many at once', async (s, Author) => {
  await Promise.all(Array.from({ length: 100 }, (_, i) => Author.create({ name: 'n' + i })))
  assert.strictEqual(await Author.count(), 100)
}, { pool: { max: 10 } })
