-- Ends a consumer: the given entries may be claimed at once, and its name goes if no entry is pending on it.
-- KEYS  stream, members, relay
-- ARGV  group, consumer, idle time to set (ms), '1' if its name does not come back, id ...
local stream, members, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local own = {}
for i = 5, #ARGV do
  if #redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1, me) == 1 then own[#own + 1] = ARGV[i] end
end
claim(stream, group, me, own, { 'IDLE', ARGV[3] }, KEYS[3])
-- its types stay announced for a while: it may be about to come back
local announced = redis.call('HGET', members, me)
if announced then
  local read, member = pcall(cjson.decode, announced)
  if read then
    member.left = true
    redis.call('HDEL', members, '') -- so that a server out of memory takes the next write, too: see rebalance.lua
    redis.call('HSET', members, me, cjson.encode(member))
  end
end
if ARGV[4] == '1' and #redis.call('XPENDING', stream, group, '-', '+', 1, me) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, me)
end
return #own
