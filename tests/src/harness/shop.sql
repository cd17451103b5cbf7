-- Invented customers. Nobody here exists; the card numbers are the test numbers of card schemes.
create table customers (
    id      integer primary key,
    name    text not null,
    email   text not null,
    card    varchar(19) not null,
    country char(2) not null,
    born    date not null,
    notes   text
);
insert into customers values
    (1, 'Ada Quill',    'ada.quill@example.com',   '4111111111111111', 'GB', '1981-03-02', 'prefers letters'),
    (2, 'Bao Lindgren', 'bao.lindgren@example.se', '5555555555554444', 'SE', '1990-11-17', null),
    (3, 'Chidi Moreau', 'chidi@example.fr',        '4012888888881881', 'FR', '1975-07-30', 'vip'),
    (4, 'Dora Petrov',  'dora.p@example.bg',       '378282246310005',  'BG', '1999-01-09', null),
    (5, 'Emil Tanaka',  'emil.t@example.jp',       '6011111111111117', 'JP', '1968-05-21', 'wholesale');

create table orders (
    id          integer primary key,
    customer_id integer not null references customers,
    item        text not null,
    cents       bigint not null,
    placed      timestamptz not null default now()
);
insert into orders (id, customer_id, item, cents)
    select n, 1 + n % 5, 'item ' || n, 100 * n from generate_series(1, 40) as n;

-- What a bot keeps for itself: free to write, free to empty.
create table scratch (id serial primary key, word text not null, at timestamptz default now());

create view customer_names as select id, name, country from customers;
create view customer_contacts as select id, name, email from customers;

grant usage on schema public to public;
grant select, insert, update, delete, truncate on all tables in schema public to public;
grant usage on all sequences in schema public to public;
analyze;
