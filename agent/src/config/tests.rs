use super::*;

const TARGET: &str = r#"
[[targets]]
name = "shop"
protocol = "postgres"
addresses = ["127.0.0.1"]
port = 5432
env = "prod"
user = "app"
"#;

fn check(text: &str, expect: Result<(), &str>) {
    let outcome = Config::parse(Path::new("test.toml"), text);
    match (outcome, expect) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => {
            assert!(error.to_string().contains(part), "`{error}` does not say `{part}`");
        }
        (Ok(_), Err(part)) => panic!("accepted, expected `{part}`:\n{text}"),
        (Err(error), Ok(())) => panic!("refused: {error}\n{text}"),
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    check(TARGET, Ok(()));
    check("", Ok(()));
    check("sate_dir = '/x'", Err("unknown field `sate_dir`"));
    check("state_dir = 'x'", Err("not an absolute path"));
    check(&format!("{TARGET}colour = 'red'"), Err("unknown field `colour`"));
    check(&TARGET.replace("127.0.0.1", "10.0.0.1"), Err("targets.shop.tls: missing"));
    check(&format!("{}[targets.tls]\nmode = 'disable'", TARGET.replace("127.0.0.1", "10.0.0.1")), Ok(()));
    check(&format!("{TARGET}[targets.tls]\nmode = 'disable'\nca_file = '/x'"), Err("do nothing"));
    check(
        &format!("{TARGET}[targets.tls]\nmode = 'require'"),
        Err("targets.shop.tls.mode: `require` is not known"),
    );
    check(&TARGET.replace("postgres", "oracle"), Err("`oracle` is not known"));
    check(&TARGET.replace("127.0.0.1", "127.0.0.1/33"), Err("bad prefix length"));
    check(&TARGET.replace("[\"127.0.0.1\"]", "[]"), Err("can never match"));
    check(&format!("{TARGET}{TARGET}"), Err("`shop` appears twice"));
    check(&format!("{TARGET}{}", TARGET.replace("shop", "shop2")), Err("both claim 127.0.0.1/32 port 5432"));
    check(
        &format!("{TARGET}[[targets.labels]]\ncolumn = 'a.b'\ntags = ['pii']"),
        Err("not schema.table.column"),
    );
    check(&format!("{TARGET}[[targets.labels]]\ncolumn = 'a.b.c'\ntags = []"), Err("has no tags"));
    check("[hold]\ntimeout_s = 0", Err("hold.timeout_s"));
    check("[intercept]\ncgroup = 'agents'", Err("intercept.cgroup"));
    check("[intercept]\nbypass = ['/a/../b']", Err("not a clean path"));
    check("[[identities]]\nname = 'a'\ncgroup = '/'", Err("every process of the host"));
    check("[[identities]]\nname = 'a b'\ncgroup = '/x'", Err("letters, digits"));
}

#[test]
fn an_identity_inside_another_can_never_match_and_is_refused() {
    let text = "[[identities]]\nname='outer'\ncgroup='/a'\n[[identities]]\nname='inner'\ncgroup='/a/b'";
    check(text, Err("`inner` can never match"));
    let siblings = "[[identities]]\nname='one'\ncgroup='/a'\n[[identities]]\nname='two'\ncgroup='/ab'";
    check(siblings, Ok(()));
}

#[test]
fn an_identity_that_could_be_anybody_or_nobody_is_refused() {
    let one = |rest: &str| format!("[[identities]]\nname='a'\n{rest}");
    let of = |rule: &str| one(&format!("match = {{ {rule} }}"));
    check(&of("kind='systemd', unit='a@*.service'"), Ok(()));
    check(&of("kind='container', runtime='docker', unverified=true"), Ok(()));
    check(&one(""), Err("neither `cgroup` nor `match`"));
    check(&one("cgroup='/a'\nmatch={kind='systemd', unit='b.service'}"), Err("not both"));
    check(&of("kind='systemd'"), Err("says nothing but the kind"));
    check(&of("kind='plain', unit='x'"), Err("nobody in particular"));
    check(&of("kind='systemd', pod='x'"), Err("can never match"));
    check(&of("kind='systemd', unit='*'"), Err("leave it out"));
    check(&of("kind='systemd', unti='x'"), Err("unknown field `unti`"));
    check(&of("kind='systemd-user', unit='x.service'"), Err("any user of the host"));
    check(&of("kind='container', runtime='docker'"), Ok(()));
    check(&of("kind='nomad', task='web'"), Err("takes the name's word"));
    check(&of("kind='container-rootless', uid=1000"), Err("takes the name's word"));
    check(&of("kind='nomad', task='web', unverified=true"), Ok(()));
    check("[authorities]\ndocker = 'x'", Err("authorities.docker"));
}

#[test]
fn a_pod_that_could_be_anybodys_or_nobodys_is_refused() {
    let kubelet = "[authorities.kubelet]\nca_file = '/ca.pem'\ntoken_file = '/token'\n";
    let of = |rule: &str| format!("[[identities]]\nname='a'\nmatch = {{ kind='k8s', {rule} }}\n");
    let with = |rule: &str| of(rule) + kubelet;
    check(&of("namespace='shop'"), Ok(()));
    check(&with("namespace='shop', service_account='billing', labels={app='x', track=''}"), Ok(()));
    check(&of("namespace='shop', service_account='billing'"), Err("[authorities.kubelet] is not configured"));
    check(&with("service_account='billing'"), Err("namespace: missing"));
    check(&with("labels={app='x'}"), Err("namespace: missing"));
    check(&with("namespace='shop', labels={app='*'}"), Err("to the letter"));
    check(&with("namespace='*'"), Err("leave it out"));
    check(&with("namespace='shop', unverified=true"), Err("no name to take"));
    let unit = "[[identities]]\nname='a'\nmatch = { kind='container', container='x', namespace='shop' }";
    check(unit, Err("can never match"));
    check(&kubelet.replace("/token", "token"), Err("authorities.kubelet.token_file"));
    check(&format!("{kubelet}url = 'http://127.0.0.1:10255/pods'"), Err("is not https"));
    check("[authorities.kubelet]\ntoken_file = '/token'", Err("ca_file"));
}

#[test]
fn people_log_in_where_no_workload_does() {
    let provider = |name: &str, audience: &str| {
        format!("[[providers]]\nname='{name}'\nissuer='https://idp'\naudience='{audience}'\ngroups=['dba']\n")
    };
    let bot = "[[identities]]\nname='bot'\ncgroup='/bot'\n[identities.token]\nprovider='corp'\nfile='/t'\nsubject='b'\n";
    let login = "[login]\nprovider='staff'\nclient_id='cli'\n";
    let with = |audience: &str, login: &str| {
        format!("{bot}{}{}{login}", provider("corp", "chaperone"), provider("staff", audience))
    };
    check(&with("people", login), Ok(()));
    check(&with("people", &format!("{login}[login.may_lend]\ndba=['mail']\n")), Ok(()));
    check(&with("chaperone", login), Err("an audience of their own"));
    check(&with("people", &login.replace("staff", "corp")), Err("an audience of their own"));
    check(&with("people", &login.replace("staff", "other")), Err("no provider `other`"));
    check(&with("people", &login.replace("cli'", "'")), Err("cannot be empty"));
    check(
        &with("people", &format!("{login}[login.may_lend]\nsales=['mail']\n")),
        Err("no group of provider"),
    );
    check(&with("people", &format!("{login}client_secret='x'\n")), Err("unknown field `client_secret`"));
}

#[test]
fn the_most_specific_network_names_the_target() {
    let wide = TARGET.replace("127.0.0.1", "10.0.0.0/8") + "[targets.tls]\nmode='disable'\n";
    let narrow = wide.replace("shop", "inner").replace("10.0.0.0/8", "10.1.2.3");
    let config = Config::parse(Path::new("t"), &format!("{wide}{narrow}")).unwrap();
    let name = |address: &str, port| {
        config.target_for(address.parse().unwrap(), port).map(|target| target.name.clone())
    };
    assert_eq!(name("10.9.9.9", 5432).as_deref(), Some("shop"));
    assert_eq!(name("10.1.2.3", 5432).as_deref(), Some("inner"));
    assert_eq!(name("::ffff:10.1.2.3", 5432).as_deref(), Some("inner"));
    assert_eq!(name("10.1.2.3", 5433), None);
    assert_eq!(name("11.0.0.1", 5432), None);
}
