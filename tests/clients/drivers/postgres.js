// postgres.js: everything prepared and pipelined, types described by the server.
const postgres = require('postgres')
const [host, port, user, database] = process.argv.slice(2)
const row = values => values.map(v => (v === null ? 'null' : v)).join(' ')

async function main() {
  const sql = postgres({ host, port, user, database, max: 1 })
  const said = [(await sql`select count(*) from customers where id > ${0}`.values())[0][0]]
  const many = Array.from({ length: 12 }, () =>
    sql`select id, name, email, card, born from customers where id = ${1}`.values())
  said.push(...new Set((await Promise.all(many)).map(rows => row(rows[0]))))
  const [order] = await sql`select id, customer_id, cents, placed, item from orders where id = ${5}`.values()
  if (!(order[3] instanceof Date)) throw new Error(`not a date: ${order[3]}`)
  said.push(row([order[0], order[1], order[2], order[4]]))
  await sql.begin(async tx => { await tx`truncate customers` }).catch(error => said.push(error.code))
  said.push((await sql`select count(*) from orders`.values())[0][0])
  const copied = []
  for await (const chunk of await sql`copy (select id, email from customers where id < 3 order by id) to stdout`.readable()) {
    copied.push(chunk.toString())
  }
  said.push(copied.join('').trim().split(/\s+/).join(' '))
  const words = Array(1000).fill({ word: 'driver-postgres' })
  await sql.begin(async tx => {
    await tx`insert into scratch ${tx(words)}`
    said.push((await tx`select count(*) from scratch where word = ${'driver-postgres'}`.values())[0][0])
    throw new Error('rollback')
  }).catch(error => { if (error.message !== 'rollback') throw error })
  await sql.end()
  console.log(said.join(' | '))
}

main().catch(error => { console.error(error); process.exit(1) })
