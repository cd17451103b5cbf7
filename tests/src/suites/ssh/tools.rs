//! Programs that use SSH underneath, and other clients of it, as they are.

use std::fs;

use anyhow::{Result, ensure};

use super::{Stage, TRUSTING};
use crate::harness::report::Case;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "an Ansible playbook runs commands and copies files, pipelined and not", run: ansible },
    Case { name: "dropbear's client works as it is", run: dropbear },
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
