// PHP's two ways: PDO, prepared by the server and emulated, and the older functions, with COPY.
[$host, $port, $user, $database] = array_slice($argv, 1);
$row = 'select id, name, email, card, born from customers where id = ';
$order = 'select id, customer_id, cents, placed, item from orders where id = ';
function show($values) { return implode(' ', array_map(fn($value) => $value ?? 'null', $values)); }
$c = new PDO("pgsql:host=$host;port=$port;dbname=$database", $user, '', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$o = pg_connect("host=$host port=$port user=$user dbname=$database");
$said = [$c->query('select count(*) from customers where id > 0')->fetchColumn()];
$rows = [];
foreach ([true, false] as $emulated) {
    $q = $c->prepare($row . '?', [PDO::ATTR_EMULATE_PREPARES => $emulated]);
    for ($n = 0; $n < 6; $n++) { $q->execute([1]); $rows[] = show($q->fetch(PDO::FETCH_NUM)); }
}
$rows[] = show(pg_fetch_row(pg_query_params($o, $row . '$1', [1])));
pg_prepare($o, 'one', $row . '$1');
$rows[] = show(pg_fetch_row(pg_execute($o, 'one', [1])));
if (count(array_unique($rows)) > 1) { throw new Exception(implode(', ', $rows)); }
$said[] = $rows[0];
$values = pg_fetch_row(pg_query_params($o, $order . '$1', [5]));
$said[] = show([$values[0], $values[1], $values[2], $values[4]]);
$c->beginTransaction();
try { $c->exec('truncate customers'); } catch (PDOException $error) { $said[] = $error->getCode(); }
$c->rollBack();
$said[] = $c->query('select count(*) from orders')->fetchColumn();
$copied = $c->pgsqlCopyToArray('(select id, email from customers where id < 3 order by id)');
$said[] = implode(' ', preg_split('/\s+/', trim(implode('', $copied))));
$c->beginTransaction();
$c->pgsqlCopyFromArray('scratch', array_fill(0, 1000, 'driver-php'), "\t", '\\\\N', 'word');
$q = $c->prepare('select count(*) from scratch where word = ?');
$q->execute(['driver-php']);
$said[] = $q->fetchColumn();
$c->rollBack();
echo implode(' | ', $said), "\n";
