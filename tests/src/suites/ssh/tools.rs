//! Programs that use SSH underneath, and other clients of it, as they are.

use std::fs;

use anyhow::{Result, ensure};

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::suites::drivers::packaged;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "an Ansible playbook runs commands and copies files, pipelined and not", run: ansible },
    Case { name: "dropbear's client works as it is", run: dropbear },
    Case { name: "PuTTY's plink, pscp and psftp work as they are", run: putty },
    Case { name: "the client of Node's package ssh2 works as it is", run: node },
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
