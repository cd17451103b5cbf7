//! What frameworks and database browsers ask the catalogue of a database with labels: how much of it passes, and that the
//! answers are those that come directly.

use std::fs;

use super::*;
use crate::harness::client::Client;
use crate::harness::trail::Trail;

/// One in thirty-three may be refused.
const PERMITTED: usize = 97;

pub(super) fn frameworks(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 905)?;
    let [database, _] = &pair.names;
    let script = world.scratch.path().join("metadata.bsh");
    fs::write(&script, include_str!("../../../clients/jdbc_metadata.bsh"))?;
    let script = table::path(&script)?.to_owned();
    let (mut permitted, mut asked) = (0, 0);
    for tool in ["sqlalchemy", "django", "jdbc"] {
        let run = |client: Client<'_>| match tool {
            "sqlalchemy" => client.python(include_str!("../../../clients/reflect.py"), &[])?.ok(),
            "django" => client.python(DJANGO, &[])?.ok(),
            _ => {
                let args = JDBC.map(|word| if word.is_empty() { &script } else { word });
                let output = client.run("/usr/bin/java", &args)?;
                // BeanShell says on the side what went wrong, and ends well.
                ensure!(output.stderr.is_empty(), "{output}");
                output.ok()
            }
        };
        let client = |place| world.client_in(place, HOST, "shop_trust").database(database).limit(90);
        let direct = run(client(&world.places.bypassed))?;
        // As many tables as there are: an empty answer would be the same as another.
        ensure!(direct.to_lowercase().contains("upper_token"), "{tool} found nothing: {direct}");
        ensure!(direct.trim_end().ends_with("done"), "{tool} did not get to its end: {direct}");
        let user = format!("tool-{tool}");
        let governed = run(world.client_at(HOST, &user).database(database).limit(90))?;
        let (yes, all) = share(&world.trail(&user)?);
        ensure!(all > 4, "{tool} asked {all} times");
        eprintln!("        {tool}: {yes} of {all} statements pass");
        (permitted, asked) = (permitted + yes, asked + all);
        let differs = direct.lines().zip(governed.lines()).find(|(direct, governed)| direct != governed);
        ensure!(yes < all || direct == governed, "{tool} finds something else: {differs:?}");
    }
    ensure!(permitted * 100 >= asked * PERMITTED, "{permitted} of {asked} permitted");
    Ok(())
}

const DJANGO: &str = include_str!("../../../clients/django_tools.py");
const JDBC: [&str; 5] = [
    "-XX:TieredStopAtLevel=1",
    "-cp",
    "/usr/share/java/bsh.jar:/usr/share/java/postgresql.jar",
    "bsh.Interpreter",
    "",
];

/// Statements that were permitted, and all.
fn share(trail: &Trail) -> (usize, usize) {
    let verdicts = trail.verdicts();
    let permitted = verdicts.iter().filter(|(_, verdict)| verdict == "permit").count();
    for (sql, verdict) in verdicts.iter().filter(|(_, verdict)| verdict != "permit") {
        eprintln!("        {verdict}: {sql}");
    }
    (permitted, verdicts.len())
}
