// node-postgres, told to know its server.
const { Client } = require('pg')
const [host, port] = process.argv.slice(2)
const client = new Client({ host, port, user: 'tls', database: 'shop', ssl: { rejectUnauthorized: true } })
client
  .connect()
  .then(() => client.query('select email from customers where id = 1'))
  .then((result) => console.log('node', result.rows[0].email))
  .catch((error) => {
    if (!/certificate/.test(error.message)) throw error
    console.log('node does not trust')
  })
  .finally(() => client.end())
