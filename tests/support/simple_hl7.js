// simple-hl7 as a RIS: node simple_hl7.js PORT DIRECTORY CODE
// Writes each message as it came to DIRECTORY/<n>.hl7, then answers CODE.
const fs = require('fs')
const path = require('path')
const hl7 = require('simple-hl7')

const [port, directory, code] = process.argv.slice(2)
let count = 0
const app = hl7.tcp()
app.use((request, response, _next) => {
  // The frame is still around it: VT … FS CR.
  fs.writeFileSync(path.join(directory, `${++count}.hl7`), request.raw.slice(1, -2))
  response.ack.getSegment('MSA').setField(1, code)
  response.end()
})
app.use((error, _request, _response, _next) => { console.error(error) })
app.start(Number(port))
