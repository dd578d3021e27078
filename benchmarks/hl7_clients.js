// Clients from npm for benchmarks/hl7.py: node hl7_clients.js CLIENT PORT FILE COUNT
// Sends the file's message COUNT times on one connection, each after the last one's answer, and
// prints {"seconds": …}.
const fs = require('fs')

const [client, port, file, count] = process.argv.slice(2)
const text = fs.readFileSync(file, 'utf8')

function repeat (send) {
  const began = process.hrtime.bigint()
  let left = Number(count)
  const next = () => {
    if (left-- === 0) {
      console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - began) / 1e9 }))
      process.exit(0)
    }
    send()
  }
  next()
  // Not from within the answer's callback: simple-hl7 counts the message as under way until then.
  return () => setImmediate(next)
}

if (client === 'simple-hl7') {
  const hl7 = require('simple-hl7')
  const message = { toString: () => text }
  const out = hl7.Server.createTcpClient({ host: '127.0.0.1', port: Number(port), keepalive: true })
  let answered
  out.connect(error => {
    if (error) throw error
    answered = repeat(() => out.send(message, (failure, _ack) => {
      if (failure) throw failure
      answered()
    }))
  })
} else {
  const { Client } = require('node-hl7-client')
  let answered = () => {}
  const out = new Client({ host: '127.0.0.1' }).createConnection(
    { port: Number(port) }, async () => { answered() }
  )
  out.on('client.error', error => { throw error })
  out.once('connect', () => {
    answered = repeat(() => { out.sendMessage({ toString: () => text }) })
  })
}
