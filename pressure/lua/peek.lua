#!lua flags=no-writes
-- Look at the oldest (-1) or newest (0) item without taking it.
-- KEYS  base bound
-- ARGV  index
-- reply {OK, item} | {EMPTY} | {ABSENT}
local base, bound = unpack(KEYS)
if call('EXISTS', bound) == 0 then return {ABSENT} end
local value = call('LINDEX', base, ARGV[1])
if not value then return {EMPTY} end
return {OK, value}
