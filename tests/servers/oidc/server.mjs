// oidc-provider as authorization server on PORT, and an API on API_PORT: /jwt/ checks JWTs with Auth0's
// express-oauth2-jwt-bearer, /opaque/ looks tokens up in the authorization server's own store.
// env: PORT, API_PORT, TOKEN_TTL (s), KEYS (folder), CLIENT_SECRET (of all clients)
//
// /__peer/stats counts, /__peer/fault spoils the answers to token requests, /__peer/revoke destroys all opaque tokens.
// One line per request goes to stderr, with tokens and secrets: the tests look for them in the client's log.
import fs from 'node:fs'
import http from 'node:http'
import crypto from 'node:crypto'

// In Node 22; oidc-provider 9 uses it. Nothing else that it uses is missing in Node 20.
URL.parse ??= (url, base) => { try { return new URL(url, base) } catch { return null } }
fs.rmSync(process.argv[1])

const { default: Provider, errors } = await import('oidc-provider')
const { default: express } = await import('express')
const { auth, requiredScopes } = await import('express-oauth2-jwt-bearer')
const { exportJWK } = await import('jose')

const { env } = process
const ttl = Number(env.TOKEN_TTL || 600)
const origin = (port) => `http://127.0.0.1:${port}`
const issuer = origin(env.PORT)
const JWT = 'urn:test:jwt'
const OPAQUE = 'urn:test:opaque'

// ---- the authorization server -------------------------------------------------------------------
const key = crypto.createPrivateKey(fs.readFileSync(`${env.KEYS}/jwt.key`))
const jwk = { alg: 'RS256', use: 'sig', kid: 'signing' }
const client = (client_id, token_endpoint_auth_method) => ({
  client_id, token_endpoint_auth_method, client_secret: env.CLIENT_SECRET, scope: 'read write',
  grant_types: ['client_credentials'], redirect_uris: [], response_types: []
})
const resource = (accessTokenFormat, audience, more) => ({ scope: 'read write', accessTokenTTL: ttl, accessTokenFormat, audience, ...more })
const provider = new Provider(issuer, {
  clients: [client('basic', 'client_secret_basic'), client('post', 'client_secret_post'), client('odd:client id+%/', 'client_secret_basic')],
  scopes: ['read', 'write', 'admin'],
  jwks: { keys: [{ ...await exportJWK(key), ...jwk }] },
  cookies: { keys: ['test'] },
  ttl: { ClientCredentials: ttl },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => JWT,
      getResourceServerInfo: (ctx, indicator) => {
        if (indicator === JWT) return resource('jwt', JWT, { jwt: { sign: { alg: 'RS256' } } })
        if (indicator === OPAQUE) return resource('opaque', OPAQUE)
        throw new errors.InvalidTarget()
      }
    }
  }
})
provider.on('server_error', (ctx, error) => console.error('server_error', error))
const issued = new Set() // opaque tokens
provider.on('client_credentials.saved', (token) => issued.add(token))

// ---- the API ------------------------------------------------------------------------------------
const api = express()
api.use(express.json())
const publicKey = { keys: [{ ...await exportJWK(crypto.createPublicKey(key)), ...jwk }] }
const guard = auth({ issuer, audience: JWT, publicKey, tokenSigningAlg: 'RS256', strict: true, clockTolerance: 0 })
const answer = (req, res) => res.json({ client: req.auth.payload.client_id, scope: req.auth.payload.scope, echo: req.body })
api.all('/jwt/admin', guard, requiredScopes('admin'), answer)
api.all('/jwt/', guard, answer)
api.all('/opaque/', async (req, res) => {
  const [, text] = /^Bearer (.+)$/.exec(req.headers.authorization || '') ?? []
  const token = text && await provider.ClientCredentials.find(text)
  if (!token || token.isExpired || token.aud !== OPAQUE) {
    res.set('WWW-Authenticate', text ? 'Bearer error="invalid_token"' : 'Bearer')
    return res.status(401).json({ error: text ? 'invalid_token' : 'missing' })
  }
  res.json({ client: token.clientId, scope: token.scope })
})
api.use((error, req, res, next) => {
  if (!error.status) console.error(error)
  res.set(error.headers || {}).status(error.status || 500).json({ error: error.code || 'unauthorized' })
})

// ---- what the tests want beside them ------------------------------------------------------------
const stats = { token_requests: 0, token_by_status: {}, api_by_status: {} }
let fault = {}
const spoilt = {
  500: (res) => res.writeHead(500, { 'content-type': 'text/html' }).end('<h1>Server Error (500)</h1>'),
  503: (res) => res.writeHead(503, { 'content-type': 'application/json', 'retry-after': '1' }).end('{"error":"temporarily_unavailable"}'),
  html: (res) => res.writeHead(200, { 'content-type': 'text/html' }).end('<html><body>login</body></html>'),
  empty: (res) => res.writeHead(200, { 'content-type': 'application/json' }).end('{}'),
  cut: (res) => { res.writeHead(200, { 'content-length': 100 }).write('{"access_token":"'); setTimeout(() => res.destroy(), 10) }
}
async function control (what, url, res) {
  let out = {}
  if (what === 'stats') out = stats
  if (what === 'fault') fault = Object.fromEntries(url.searchParams)
  if (what === 'revoke') {
    out.revoked = issued.size
    for (const token of issued) await token.destroy()
    issued.clear()
  }
  res.setHeader('content-type', 'application/json')
  res.end(JSON.stringify(out))
}
const observed = (handler, isApi) => (req, res) => {
  const url = new URL(req.url, issuer)
  if (url.pathname.startsWith('/__peer/')) return control(url.pathname.slice(8), url, res)
  const isToken = !isApi && url.pathname === '/token'
  const line = { path: url.pathname, authorization: req.headers.authorization }
  res.on('close', () => {
    const count = isToken ? stats.token_by_status : isApi ? stats.api_by_status : {}
    count[res.statusCode] = (count[res.statusCode] || 0) + 1
    console.error('PEER ' + JSON.stringify({ ...line, status: String(res.statusCode) }))
  })
  if (!isToken) return handler(req, res)
  stats.token_requests++
  line.request = line.answer = ''
  const push = req.push // looks at what the parser hands over
  req.push = function (chunk, encoding) { if (chunk) line.request += chunk; return push.call(this, chunk, encoding) }
  const end = res.end
  res.end = function (chunk, ...rest) { if (chunk) line.answer += chunk; return end.call(this, chunk, ...rest) }
  const go = () => fault.answer ? spoilt[fault.answer](res) : handler(req, res)
  if (fault.delay_ms) setTimeout(go, Number(fault.delay_ms)); else go()
}
for (const [port, handler, isApi] of [[env.API_PORT, api, true], [env.PORT, provider.callback(), false]]) {
  const server = http.createServer(observed(handler, isApi))
  server.keepAliveTimeout = 75000
  server.listen(Number(port), '127.0.0.1')
}
