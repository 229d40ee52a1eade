#!lua flags=no-writes
-- What there is to see of a queue, at one instant.
-- KEYS  base bound closed produced_messages produced_bytes consumed_messages consumed_bytes prefetched leases dead_letters producer consumer orphans paused
-- ARGV
-- reply {OK, bound, length, closed, produced_messages, produced_bytes, consumed_messages, consumed_bytes, fetched_ahead, consumers, dead_letters, producer, consumer, orphans, oldest (the item's first bytes), paused (since when; 0: it is not)} | {ABSENT}
local base, bound, closed, produced_messages, produced_bytes, consumed_messages, consumed_bytes,
  prefetched, leases, dead_letters, producer, consumer, orphans, paused = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
local function number(key) return tonumber(call('GET', key) or 0) end
local length = call('LLEN', base) + (call('HGET', prefetched, '#') or 0)
return {OK, tonumber(limit), length, call('EXISTS', closed),
  number(produced_messages), number(produced_bytes), number(consumed_messages),
  number(consumed_bytes), tonumber(call('HGET', prefetched, '*') or 0), call('ZCOUNT', leases, now_ms(), '+inf'),
  call('LLEN', dead_letters), call('GET', producer) or '', call('GET', consumer) or '',
  number(orphans), string.sub(call('LINDEX', base, -1) or '', 1, BODY - 1), number(paused)}
