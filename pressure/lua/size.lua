#!lua flags=no-writes
-- How long the queue is. Items fetched ahead and not handed out are still in it.
-- KEYS  base bound closed prefetched
-- ARGV
-- reply {OK, length, bound (-1: it is no number), closed, fetched_ahead, reserved, taken_along (items of bundles of which none is queued)} | {ABSENT}
local base, bound, closed, prefetched = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
local ahead = whole(call('HGET', prefetched, '*'), 0)
local queued, more = call('LLEN', base), whole(call('HGET', prefetched, '#'), 0)
return {OK, queued + more + ahead, whole(limit, -1), call('EXISTS', closed), ahead,
  (reserved(prefetched, now_ms())), queued == 0 and more or 0}
