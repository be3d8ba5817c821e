-- Acknowledges entries that this consumer has no handler for, unless a live member of the group has one: then the entry
-- is left to it, with what is to be noted about it; in a partition it stays until its owner changes. Entries that are
-- somebody else's by now are left alone.
-- KEYS stream, members, retry   ARGV group, consumer, its name as a member (another one in a partition), then id, event
-- type, tries as JSON or '', ...
-- Replies with the number of entries that were acknowledged, of those that were left to others, and the ids that stay.
local stream, members, retry, group, me = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local now = now_in_ms()

local others = {}
local announced = redis.call('HGETALL', members)
local own = live_member(redis.call('HGET', members, ARGV[3]) or '', now)
for i = 1, #announced, 2 do
  local member = live_member(announced[i + 1], now)
  if announced[i] ~= ARGV[3] and member and member.layout == (own and own.layout) then
    local handles, is_json, types = {}, pcall(cjson.decode, member.types)
    if is_json and type(types) == 'table' then
      for _, name in ipairs(types) do handles[name] = true end
    end
    others[#others + 1] = { name = announced[i], all = types == '*', handles = handles }
  end
end

local acknowledged, left, stay = 0, 0, {}
for i = 4, #ARGV, 3 do
  local id, event_type, tries = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local who = {}
  for _, other in ipairs(others) do
    if other.all or other.handles[event_type] then who[#who + 1] = other.name end
  end
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    if #who == 0 then
      acknowledged = acknowledged + redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
    else
      local to = who[1 + (tonumber(string.match(id, '^%d+')) + i) % #who]
      if me == ARGV[3] then redis.call('XCLAIM', stream, group, to, 0, id, 'JUSTID') else stay[#stay + 1] = id end
      if tries == '' then redis.call('HDEL', retry, id) else redis.call('HSET', retry, id, tries) end
      left = left + 1
    end
  end
end
return { acknowledged, left, stay }
