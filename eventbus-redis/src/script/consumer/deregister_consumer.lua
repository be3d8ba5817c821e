-- Ends a consumer: the given entries may be claimed at once, and its name goes if no entry is pending on it.
-- KEYS  stream, members
-- ARGV  group, consumer, idle time to set (ms), '1' if its name does not come back, id ...
local stream, members, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local own = { 'XCLAIM', stream, group, me, 0 }
for i = 5, #ARGV do
  if #redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1, me) == 1 then own[#own + 1] = ARGV[i] end
end
local count = #own - 5
if count > 0 then
  for _, option in ipairs({ 'IDLE', ARGV[3], 'JUSTID' }) do own[#own + 1] = option end
  redis.call(unpack(own))
end
local recorded = redis.call('HGET', members, me)
if recorded then
  local read, member = pcall(cjson.decode, recorded)
  if read then
    member.left = true
    redis.call('HDEL', members, '') -- so that a server out of memory takes the next write, too
    redis.call('HSET', members, me, cjson.encode(member))
  end
end
if ARGV[4] == '1' and #redis.call('XPENDING', stream, group, '-', '+', 1, me) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, me)
end
return count
