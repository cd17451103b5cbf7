// Connects as an unconfigured client of the package ssh2 does: a command, its exit status, a file both ways, one denied.
// Arguments: port, folder for files that may be touched, a file that may not be read.
const { Client } = require("ssh2");
const [port, folder, closed] = process.argv.slice(2);

const client = new Client();
const exec = (command) =>
  new Promise((done, fail) =>
    client.exec(command, (error, stream) => {
      if (error) return fail(error);
      let out = "", err = "";
      stream.on("data", (data) => (out += data));
      stream.stderr.on("data", (data) => (err += data));
      stream.on("close", (code) => done({ code, out, err }));
    }),
  );
const call = (target, name, ...args) =>
  new Promise((done, fail) => target[name](...args, (error, value) => (error ? fail(error) : done(value))));

async function main() {
  const hello = await exec("echo from node");
  console.log(`echo: ${hello.code} ${hello.out.trim()}`);
  const denied = await exec("rm x");
  console.log(`rm: ${denied.code} ${denied.err.includes("chaperone: denied")}`);
  const sftp = await call(client, "sftp");
  const bytes = Buffer.alloc(300000, "node ");
  await call(sftp, "writeFile", `${folder}/node`, bytes);
  const back = await call(sftp, "readFile", `${folder}/node`);
  console.log(`file: ${back.equals(bytes)}`);
  await call(sftp, "readFile", closed).then(
    () => console.log("closed: read"),
    (error) => console.log(`closed: ${error.message}`),
  );
  await call(sftp, "unlink", `${folder}/node`);
  client.end();
}

client
  .on("ready", () => main().catch((error) => { console.log(`failed: ${error}`); process.exit(1); }))
  .on("error", (error) => { console.log(`error: ${error}`); process.exit(1); })
  .connect({ host: "127.0.0.1", port: Number(port), username: "node", readyTimeout: 20000 });
