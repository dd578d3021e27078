// node-hl7-server as a RIS: node node_hl7_server.js PORT DIRECTORY CODE
// Writes each message as it came to DIRECTORY/<n>.hl7, then answers CODE.
const fs = require('fs')
const path = require('path')
const { Server } = require('node-hl7-server')

const [port, directory, code] = process.argv.slice(2)
let count = 0
const inbound = new Server({ bindAddress: '127.0.0.1' }).createInbound(
  { port: Number(port) },
  async (_request, response) => { await response.sendResponse(code) }
)
inbound.on('data.raw', text => {
  fs.writeFileSync(path.join(directory, `${++count}.hl7`), text)
})
inbound.on('data.error', error => { console.error(error) })
