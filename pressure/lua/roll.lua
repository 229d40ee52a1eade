#!lua flags=no-writes
-- Who works on this queue: the records whose time is not over, and how much of it is left.
-- KEYS  workers beats
-- ARGV
-- reply {OK, (left_ms record)...}
local workers, beats = unpack(KEYS)

local now = now_ms()
local reply = {OK}
local living = call('ZRANGEBYSCORE', beats, '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #living, 2 do
  local record = call('HGET', workers, living[i])
  if record then
    reply[#reply + 1] = living[i + 1] - now
    reply[#reply + 1] = record
  end
end
return reply
