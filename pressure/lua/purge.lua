#!lua flags=allow-oom
-- Second half of deleting: drop every key, unless the name has been given to a new queue meanwhile
-- (whose `create` has purged them).
-- KEYS  (every fixed key, base first) taken...
-- ARGV
-- reply {OK} | {EXISTS}
local bound = KEYS[2]
if call('EXISTS', bound) == 1 then return {EXISTS} end
for i = 1, #KEYS do call('UNLINK', KEYS[i]) end
return {OK}
