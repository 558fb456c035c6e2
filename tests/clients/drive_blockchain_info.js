/* Makes calls of npm's `blockchain.info` 2.12.1 to another API than Blockchain.info's.

Standard input is JSON: {"url": "http://KEY@host/", "calls": [["generate", [xpub, callback, key, gapLimit], query], ...]}.
Standard output is a JSON list with one answer a call: {"result": ...}, or {"error": {...}} with what the promise was
rejected with.

The redirection is what a shop would write: the root URL is a constant inside the SDK, so the one function that all
requests go through is wrapped. */

const API = require('blockchain.info/api')
const Receive = require('blockchain.info').Receive

function redirect (url) {
  const request = API.prototype.request
  API.prototype.request = function (...options) {
    this.rootUrl = url + 'v2'
    return request.apply(this, options)
  }
}

async function answerOf ([name, [xpub, callback, key, gapLimit], ...more]) {
  const options = gapLimit === undefined ? {} : { __unsafe__gapLimit: gapLimit }
  try {
    return { result: await new Receive(xpub, callback, key, options)[name](...more) }
  } catch (error) {
    return { error: { kind: typeof error, message: String(error) } }
  }
}

async function main () {
  const asked = JSON.parse(require('fs').readFileSync(0, 'utf8'))
  redirect(asked.url)
  const answers = []
  for (const call of asked.calls) answers.push(await answerOf(call))
  process.stdout.write(JSON.stringify(answers))
}

main()
