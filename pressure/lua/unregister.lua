#!lua flags=allow-oom
-- Workers have ended: what was said of them is dropped at once.
-- KEYS  workers beats
-- ARGV  worker_id...
-- reply {OK, dropped}
local workers, beats = unpack(KEYS)

local dropped = 0
for i = 1, #ARGV do
  dropped = dropped + call('HDEL', workers, ARGV[i])
  call('ZREM', beats, ARGV[i])
end
return {OK, dropped}
