-- A journal of format 1: an open order, one that has expired, one that is known by its id only, and a call of unknown outcome.
create table entries (
    row integer primary key,
    state integer not null,
    at real not null,
    id text unique,
    document text,
    price integer,
    prepaid integer not null,
    owner text,
    paid integer,
    number text,
    code text,
    cancel text,
    end text,
    ended real
);
create index pending on entries (state) where state < 3;
create table facts (name text primary key, value);
pragma application_id = 1932817249;
pragma user_version = 1;
insert into entries values (1, 1, 1795831200.5, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{"version": 1, "id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kind": "receive", "payreq": null, "prepaid": true, "amount_sats": null, "created_at": "2026-11-28T02:00:00+00:00", "country": 187, "service": "tg"}', 1500, 1, 'd041b1e5a3c70f11', 1, '+12025550143', null, null, null, null);
insert into entries values (2, 3, 1795831201.5, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', '{"version": 1, "id": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "kind": "receive", "payreq": "lnbc15u1qqqqqqqqqqqq", "prepaid": false, "amount_sats": 1500, "created_at": "2026-11-28T02:00:01+00:00", "country": "USA", "service": "tg"}', 1500, 0, null, 0, null, null, 'confirmed', 'expired', 1795832500.0);
insert into entries values (3, 0, 1795831202.5, null, '{"kind": "receive", "country": 0, "service": "wa"}', 1500, 1, 'd041b1e5a3c70f11', null, null, null, null, null, null);
insert into entries values (4, 1, 1795831203.5, 'cccccccccccccccccccccccccccccccc', null, null, 0, null, 1, null, null, null, null, null);
insert into facts values ('opened', 1795831200.0);
