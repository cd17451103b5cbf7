//! Programs that use SSH underneath, and other clients of it, as they are.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::Program;
use crate::suites::drivers::packaged;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "an Ansible playbook runs commands and copies files, pipelined and not", run: ansible },
    Case { name: "dropbear's client works as it is", run: dropbear },
    Case { name: "PuTTY's plink, pscp and psftp work as they are", run: putty },
    Case { name: "the client of Node's package ssh2 works as it is", run: node },
    Case { name: "Go's x/crypto/ssh and pkg/sftp work as they are, tunnels among it", run: go },
    Case { name: "curl and lftp copy both ways where they may", run: curl_and_lftp },
    Case { name: "a folder is mounted by sshfs, and what is denied is denied there", run: sshfs },
];

const PLAYBOOK: &str = "\
- hosts: all
  gather_facts: false
  tasks:
    - name: a command
      command: id -un
      register: who
    - assert: { that: who.stdout == 'root' }
    - name: a file
      copy: { content: from ansible, dest: DEST, mode: '0644' }
";

fn ansible(stage: &mut Stage) -> Result<()> {
    let dest = stage.files("in/ansible");
    let book = stage.home("book.yml");
    let text = PLAYBOOK.replace("DEST", &dest);
    fs::write(&book, text)?;
    let inventory = format!(
        "web ansible_host=127.0.0.1 ansible_port={} ansible_user=ansible ansible_python_interpreter=/usr/bin/python3 \
         ansible_remote_tmp={}\n",
        stage.sshd.port,
        stage.files("in/tmp")
    );
    fs::write(stage.home("inventory"), inventory)?;
    for pipelining in ["0", "1"] {
        let _ = fs::remove_file(&dest);
        let output = stage
            .client_in(&stage.world.places.mail_bot, "/usr/bin/ansible-playbook")?
            .env(
                "ANSIBLE_SSH_ARGS",
                format!("-o ControlMaster=auto -o ControlPersist=5s {}", TRUSTING.join(" ")),
            )
            .env("ANSIBLE_PIPELINING", pipelining)
            .env("ANSIBLE_NOCOLOR", "1")
            .args(["-i".as_ref(), stage.home("inventory").as_os_str(), book.as_os_str()])
            .limit(120)
            .run()?;
        ensure!(output.code == Some(0), "pipelining {pipelining}: {output}");
        ensure!(fs::read_to_string(&dest)? == "from ansible", "{output}");
    }
    Ok(())
}

fn dropbear(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    let run = |command: &str| {
        let client = stage.client("/usr/bin/dbclient")?;
        client
            .args(["-y", "-y", "-T", "-p", &port, "-l", "dropbear", "127.0.0.1", command])
            .stdin("in\n")
            .run()
    };
    let output = run("cat; false")?;
    ensure!(output.code == Some(1) && output.stdout == "in\n", "{output}");
    let output = run("rm x")?;
    ensure!(output.code == Some(126) && output.stderr.contains("chaperone: denied"), "{output}");
    Ok(())
}

/// PuTTY keeps host keys of its own and asks on a terminal, so it is told the agent's, as the agent shows them.
fn putty(stage: &mut Stage) -> Result<()> {
    let (port, dest) = (stage.sshd.port, stage.files("in/putty"));
    let local = stage.home("putty");
    let script = format!(
        r#"keys=$(ssh-keyscan -p {port} 127.0.0.1 2>/dev/null | ssh-keygen -lf - | while read -r _ key _; do echo "-hostkey $key"; done)
all="-batch $keys -P {port} -l putty"
echo in | plink $all 127.0.0.1 cat || exit 1
plink $all 127.0.0.1 'rm x' || echo "code $?"
echo from putty >{local}
pscp -q $all {local} 127.0.0.1:{dest} || exit 1
printf 'get {dest} {local}.back\nget {closed} {local}.closed\nrm {dest}\n' | psftp -be $all 127.0.0.1 >{local}.log
cmp {local} {local}.back || exit 1
test -e {local}.closed && exit 1
grep -o 'permission denied' {local}.log
"#,
        local = local.display(),
        closed = stage.files("closed/secret"),
    );
    let output = stage.client("/bin/sh")?.args(["-c", &script]).run()?;
    ensure!(output.stdout == "in\ncode 126\npermission denied\n", "{output}");
    ensure!(output.stderr.contains("chaperone: denied"), "{output}");
    ensure!(!std::path::Path::new(&dest).exists(), "psftp did not remove {dest}");
    Ok(())
}

fn node(stage: &mut Stage) -> Result<()> {
    let program = stage.home("ssh2.js");
    fs::write(&program, include_str!("../../../clients/ssh2.js"))?;
    let client = stage
        .client("/usr/bin/node")?
        .env("NODE_PATH", packaged("ssh2").join("node_modules"))
        .args([program.as_os_str()])
        .args([&stage.sshd.port.to_string(), &stage.files("in"), &stage.files("closed/secret")]);
    let told = client.run()?.ok()?;
    ensure!(
        told.starts_with("echo: 0 from node\nrm: 126 true\nfile: true\nclosed: chaperone: denied by policy"),
        "{told}"
    );
    Ok(())
}

fn go(stage: &mut Stage) -> Result<()> {
    let (source, program) =
        (stage.world.scratch.path().join("ssh.go"), stage.world.scratch.path().join("ssh-go"));
    fs::write(&source, include_str!("../../../clients/ssh.go"))?;
    let compiler = Program::new("/usr/bin/go").env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    let compiler = compiler.env("GOCACHE", packaged("go")).env("HOME", stage.home(""));
    compiler
        .args(["build".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()])
        .limit(120)
        .run()?
        .ok()?;
    let client = stage.client(&program.display().to_string())?;
    let client =
        client.args([&stage.sshd.port.to_string(), &stage.files("in"), &stage.files("closed/secret")]);
    let told = client.run()?.ok()?;
    let (before, after) = told.split_once("closed: ").with_context(|| told.clone())?;
    ensure!(before == "cat: 1 from go\nrm: 126 true\nfile: true\n", "{told}");
    let (why, after) = after.split_once('\n').with_context(|| told.clone())?;
    ensure!(why == "permission denied", "{told}");
    ensure!(after == "tunnel: SSH-2.0-\nelsewhere: true\n", "{told}");
    Ok(())
}

fn curl_and_lftp(stage: &mut Stage) -> Result<()> {
    let local = stage.home("fetched");
    let content = "from a client of files\n".repeat(20_000);
    fs::write(&local, &content)?;
    let script = format!(
        r#"set -e
url=sftp://127.0.0.1:{port}
curl -ksS -u curl:whatever -T {local} $url{folder}/curl
curl -ksS -u curl:whatever -o {local}.curl $url{folder}/curl
cmp {local} {local}.curl
curl -ksS -u curl:whatever $url{closed} || echo "curl $?"
lftp -c 'set sftp:connect-program "ssh -a -x {trusting}"; set net:max-retries 1; set xfer:clobber yes
open -u lftp,whatever '$url'; put {local} -o {folder}/lftp; get {folder}/lftp -o {local}.lftp; rm {folder}/curl
get {closed} -o {local}.closed' >{local}.log 2>&1 || true
grep -o 'denied by policy' {local}.log | head -1
cmp {local} {local}.lftp || cat {local}.log >&2
test -e {local}.closed || echo none
"#,
        port = stage.sshd.port,
        local = local.display(),
        folder = stage.files("in"),
        closed = stage.files("closed/secret"),
        trusting = TRUSTING.join(" "),
    );
    let output = stage.client("/bin/sh")?.args(["-c", &script]).limit(60).run()?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    ensure!(lines.len() == 3 && lines[0] == "curl 9" && lines[2] == "none", "{output}");
    ensure!(fs::read_to_string(stage.files("in/lftp"))? == content, "{output}");
    ensure!(!std::path::Path::new(&stage.files("in/curl")).exists(), "lftp did not remove it: {output}");
    Ok(())
}

/// As root, because the device is root's; in a mount namespace of its own, which takes the mount with it.
fn sshfs(stage: &mut Stage) -> Result<()> {
    let mount = stage.world.scratch.folder("mounted", 0o755)?;
    let options: String = TRUSTING.chunks(2).map(|option| format!(" -o {}", option[1])).collect();
    let script = format!(
        r#"[ -e /dev/fuse ] || mknod /dev/fuse c 10 229
sshfs -p {port}{options} sshfs@127.0.0.1:{folder} {mount} || exit 1
trap 'fusermount3 -u {mount}' EXIT
cat {mount}/readme
echo mounted >{mount}/sshfs
mv {mount}/sshfs {mount}/sshfs.moved
cat {mount}/sshfs.moved
rm {mount}/sshfs.moved
ln -s ../closed/secret {mount}/way-out 2>/dev/null || echo no link
cat {mount}/../closed/secret 2>/dev/null || echo no way
"#,
        port = stage.sshd.port,
        folder = stage.files("in"),
        mount = mount.display(),
    );
    let output = Program::new("/usr/bin/unshare")
        .args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script])
        .inside(&stage.world.places.billing_bot)?
        .env("HOME", stage.home(""))
        .limit(40)
        .run()?;
    ensure!(output.stdout == "read me\nmounted\nno link\nno way\n", "{output}");
    let trail = stage.trail("sshfs")?;
    let written = trail.all("file_content").iter().any(|event| event["written_bytes"] == 8);
    ensure!(written, "{:?}", trail.all("file_content"));
    Ok(())
}
