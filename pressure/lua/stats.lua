#!lua flags=no-writes
-- What there is to see of a queue, at one instant.
-- KEYS  base bound closed produced_messages produced_bytes consumed_messages consumed_bytes prefetched leases dead_letters producer consumer orphans paused
-- ARGV
-- reply {OK, bound (-1: it is no number), length, closed, produced_messages, produced_bytes, consumed_messages, consumed_bytes, fetched_ahead, consumers, dead_letters, producer, consumer, orphans, oldest (the item's first bytes), paused (since when; 0: it is not)} | {ABSENT}
local base, bound, closed, produced_messages, produced_bytes, consumed_messages, consumed_bytes,
  prefetched, leases, dead_letters, producer, consumer, orphans, paused = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
local function number(key) return whole(call('GET', key), 0) end
local now, since = now_ms(), call('GET', paused)
-- Paused it is, whatever stands there.
if since then since = math.max(1, math.min(whole(since, now), now)) end
local length = call('LLEN', base) + whole(call('HGET', prefetched, '#'), 0)
return {OK, whole(limit, -1), length, call('EXISTS', closed),
  number(produced_messages), number(produced_bytes), number(consumed_messages),
  number(consumed_bytes), whole(call('HGET', prefetched, '*'), 0), call('ZCOUNT', leases, now, '+inf'),
  call('LLEN', dead_letters), call('GET', producer) or '', call('GET', consumer) or '',
  number(orphans), string.sub(call('LINDEX', base, -1) or '', 1, BODY - 1), since or 0}
