// A real OpenID provider for the suite `identity`: clients prove themselves by a key, people log in with any password,
// tokens carry groups.
// Arguments: port, folder with clients.json and state.json. The signing key is new at every start.
import crypto from 'node:crypto';
import fs from 'node:fs';
import { Provider } from 'oidc-provider';

const [port, folder] = process.argv.slice(2);
const read = (name) => JSON.parse(fs.readFileSync(`${folder}/${name}`, 'utf8'));
const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
const key = { ...privateKey.export({ format: 'jwk' }), kid: crypto.randomUUID(), use: 'sig', alg: 'ES256' };

// The command line that people log in with: it has no secret.
const people = [{
  client_id: 'chaperone-cli',
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  id_token_signed_response_alg: 'ES256',
  grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
  redirect_uris: [],
  response_types: [],
}];

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [...people, ...read('clients.json').map(({ id, x }) => ({
    client_id: id,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'EdDSA',
    id_token_signed_response_alg: 'ES256',
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    jwks: { keys: [{ kty: 'OKP', crv: 'Ed25519', x, use: 'sig', kid: id }] },
  }))],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  jwks: { keys: [key] },
  enabledJWA: { clientAuthSigningAlgValues: ['EdDSA', 'ES256'] },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:chaperone',
      getResourceServerInfo: (_, resource) => ({
        audience: resource.slice('urn:'.length),
        scope: '',
        accessTokenFormat: 'jwt',
        accessTokenTTL: resource === 'urn:chaperone' ? read('state.json').ttl : 600,
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  extraTokenClaims: (_, token) => ({ groups: read('state.json').groups[token.accountId ?? token.clientId] ?? [] }),
});
provider.on('grant.error', (_, error) => console.error(error.error_description ?? error.message));
provider.on('server_error', (_, error) => console.error(error));
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
