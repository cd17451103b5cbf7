// The issuer of a platform's tokens for the suite `identity`: OpenID Connect Discovery, a key set, and a token for each
// identity in a file of its own. Arguments: port, folder. Tokens last a minute and are written again every ten seconds.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';

const [port, folder] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const { publicKey, privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
const jwk = { ...publicKey.export({ format: 'jwk' }), kid: 'platform', use: 'sig', alg: 'ES256' };

function token(sub, groups) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { iss: issuer, aud: 'chaperone', sub, groups, iat: now, exp: now + 60 };
  const message = `${part({ alg: 'ES256', kid: 'platform', typ: 'JWT' })}.${part(claims)}`;
  const key = { key: privateKey, dsaEncoding: 'ieee-p1363' };
  return `${message}.${crypto.sign('sha256', Buffer.from(message), key).toString('base64url')}`;
}

function write(name, text) {
  fs.writeFileSync(`${folder}/${name}.new`, text);
  fs.renameSync(`${folder}/${name}.new`, `${folder}/${name}`);
}

const spiffe = 'spiffe://chaperone.test/mail-bot';
function issue() {
  write('command.token', token('by-command', ['mail-readers']));
  // What the stand-in of the Workload API is to give out, and to whom.
  write('spiffe.json', JSON.stringify({ audience: 'chaperone', spiffe_id: spiffe, svid: token(spiffe, ['mail-readers']) }));
}
issue();
setInterval(issue, 10_000);

http
  .createServer((request, response) => {
    const known = {
      '/.well-known/openid-configuration': { issuer, jwks_uri: `${issuer}/keys` },
      '/keys': { keys: [jwk] },
    }[request.url];
    response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' });
    response.end(JSON.stringify(known ?? {}));
  })
  .listen(Number(port), '127.0.0.1');
