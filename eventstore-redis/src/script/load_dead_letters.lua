#!lua flags=no-writes
-- Loads a page of dead letters, oldest first.
-- KEYS  the dead letters of all groups; their delivery attempts
-- ARGV  time and member of the last one of the page before, or '' and ''; the size of the page
-- Reply: for each member, time, delivery attempts
local since, after, most = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Returns true if a member is behind a different one of the same time: a sorted set compares bytes, and Lua compares
-- texts by the server's locale.
local function is_behind(one, other)
  for i = 1, #one do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return not b or a > b end
  end
  return false
end

local STEP = 100
local found, skipped = {}, 0
while #found < most * 3 do
  local from = since == '' and '-inf' or since
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], from, '+inf', 'WITHSCORES', 'LIMIT', skipped, STEP)
  for i = 1, #page, 2 do
    local member, at = page[i], page[i + 1]
    local is_seen = since ~= '' and tonumber(at) == tonumber(since) and not is_behind(member, after)
    if not is_seen and #found < most * 3 then
      found[#found + 1] = member
      found[#found + 1] = at
      found[#found + 1] = redis.call('HGET', KEYS[2], member) or ''
    end
  end
  if #page < STEP * 2 then break end
  skipped = skipped + STEP
end
return found
