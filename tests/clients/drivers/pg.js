// node-postgres: extended protocol with and without a name, text results, errors with `code`.
const { Client } = require('pg')
const [host, port, user, database] = process.argv.slice(2)
const row = values => values.map(v => (v === null ? 'null' : v)).join(' ')

async function main() {
  const c = new Client({ host, port, user, database })
  await c.connect()
  const ask = async (text, values, name) => (await c.query({ text, values, name, rowMode: 'array' })).rows
  const said = [(await ask('select count(*) from customers where id > $1', [0]))[0][0]]
  const rows = new Set()
  for (let n = 0; n < 12; n++) {
    rows.add(row((await ask('select id, name, email, card, born from customers where id = $1', [1], 'row'))[0]))
  }
  said.push(...rows)
  const [order] = await ask('select id, customer_id, cents, placed, item from orders where id = $1', [5])
  if (!(order[3] instanceof Date)) throw new Error(`not a date: ${order[3]}`)
  said.push(row([order[0], order[1], order[2], order[4]]))
  await c.query('begin')
  await c.query('truncate customers').catch(error => said.push(error.code))
  await c.query('rollback')
  said.push((await ask('select count(*) from orders'))[0][0], '-')
  await c.query('begin')
  const words = Array(1000).fill('driver-pg')
  await c.query('insert into scratch (word) select unnest($1::text[])', [words])
  said.push((await ask('select count(*) from scratch where word = $1', ['driver-pg']))[0][0])
  await c.query('rollback')
  await c.end()
  console.log(said.join(' | '))
}

main()
