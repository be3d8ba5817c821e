-- Ids of entries. Both numbers of an id have up to 64 bits, more than a Lua number holds exactly: they stay decimals
-- without leading zeros, of which the longer one is larger.

local function parts(id) return string.match(id, '^(%d+)-(%d+)$') end

local function is_smaller(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function is_before(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if a_ms ~= b_ms then return is_smaller(a_ms, b_ms) end
  return is_smaller(a_seq, b_seq)
end

local LAST = '18446744073709551615'
local function plus_one(number)
  local head, nines = string.match(number, '^(%d-)(9*)$')
  local digit = head == '' and '1' or string.sub(head, 1, -2) .. (string.sub(head, -1) + 1)
  return digit .. string.rep('0', #nines)
end

-- Returns the lowest id after an id.
local function after(id)
  local ms, seq = parts(id)
  if seq == LAST then return plus_one(ms) .. '-0' end
  return ms .. '-' .. plus_one(seq)
end

-- Converts a flat list of names and values to a table.
local function by_name(list)
  local named = {}
  for i = 1, #list, 2 do named[list[i]] = list[i + 1] end
  return named
end

local function now_in_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns a member's announcement; nil if it has expired, or is from before the clock was set back.
local function live_member(text, now)
  local is_json, member = pcall(cjson.decode, text)
  if not is_json or type(member) ~= 'table' then return nil end
  local at, live_ms = tonumber(member.at), tonumber(member.live_ms)
  if at and live_ms and at <= now and at + live_ms > now then return member end
  return nil
end

-- Returns true if a group has yet to read an entry.
local function is_unread(stream, group, id)
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = by_name(found)
    if info.name == group then return is_before(info['last-delivered-id'], id) end
  end
  return false
end

-- Returns the server's information on the groups of a stream, by name.
local function groups_of(stream)
  local groups = {}
  if redis.call('EXISTS', stream) == 0 then return groups end
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = by_name(found)
    groups[info.name] = info
  end
  return groups
end

local function first_of(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return first and first[1]
end

-- Returns a group's low-water mark: it has finished the entries before this id, and the oldest entry from there on is
-- unread or pending. Pending entries that a client removed from the stream do not count.
local function floor_of(stream, info, first)
  local id = after(info['last-delivered-id'])
  local pending = redis.call('XPENDING', stream, info.name, first or '-', '+', 1)[1]
  if pending and is_before(pending[1], id) then return pending[1], 'pending' end
  return id, 'unread'
end

