// A person with a browser who finishes a login: opens the page, sends its forms as they are, with a name and a password.
// Arguments: address, name, `yes` or `no`.
const [start, name, answer] = process.argv.slice(2);
const cookies = new Map();

async function open(address, body) {
  for (let hops = 0; hops < 20; hops += 1) {
    const cookie = [...cookies].map(([key, value]) => `${key}=${value}`).join('; ');
    const response = await fetch(address, { method: body ? 'POST' : 'GET', body, headers: { cookie }, redirect: 'manual' });
    for (const line of response.headers.getSetCookie()) {
      const [key, value] = line.split(';')[0].split('=');
      if (value) cookies.set(key, value); else cookies.delete(key);
    }
    const next = response.headers.get('location');
    if (!next) return { address, status: response.status, page: await response.text() };
    address = new URL(next, address).href;
    body = undefined;
  }
  throw new Error('redirected too often');
}

function form({ address, page }) {
  const found = page.match(/<form[^>]*action="([^"]*)"[^>]*>([^]*?)<\/form>/);
  if (!found) return undefined;
  const fields = new URLSearchParams();
  for (const [input] of found[2].matchAll(/<input[^>]*>/g)) {
    const key = input.match(/name="([^"]*)"/)?.[1];
    if (key) fields.set(key, input.match(/value="([^"]*)"/)?.[1] ?? '');
  }
  if (fields.has('login')) { fields.set('login', name); fields.set('password', 'any'); }
  if (fields.has('confirm') && answer === 'no') { fields.delete('confirm'); fields.set('abort', 'yes'); }
  return { action: new URL(found[1], address).href, fields };
}

let at = await open(start);
for (let steps = 0; steps < 10; steps += 1) {
  const next = form(at);
  if (!next) break;
  at = await open(next.action, next.fields);
}
console.log(at.status, at.page.match(/<h1>([^<]*)</)?.[1] ?? '');
