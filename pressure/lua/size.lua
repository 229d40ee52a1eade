#!lua flags=no-writes
-- How long the queue is. Items fetched ahead and not handed out are still in it.
-- KEYS  base bound closed prefetched
-- ARGV
-- reply {OK, length, bound, closed, fetched_ahead, reserved, taken_along (items of bundles of which none is queued)} | {ABSENT}
local base, bound, closed, prefetched = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
local ahead = tonumber(call('HGET', prefetched, '*') or 0)
local queued, more = call('LLEN', base), tonumber(call('HGET', prefetched, '#') or 0)
return {OK, queued + more + ahead, tonumber(limit), call('EXISTS', closed), ahead,
  (reserved(prefetched, now_ms())), queued == 0 and more or 0}
