-- Removes the oldest entries that are beyond a limit, as far as every known group is done with them.
--
-- A group is known when it is listed in the floors, has a consumer, or has read something. A listed group that is missing
-- stops the trimming. The floors of the listed groups are written anew.
--
-- KEYS  stream, floors
-- ARGV  how many entries to keep or '', for how many ms to keep them or '', how many to remove at most
-- Replies how many were removed, whether there may be more, the length before, the time in ms, and what holds the rest
-- back: 'none', or 'missing', 'unread' or 'pending', the group, and the id of its oldest entry.

local stream, floors = KEYS[1], KEYS[2]
local keep, max_age, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_in_ms()
local missing = by_name(redis.call('HGETALL', floors))
if redis.call('EXISTS', stream) == 0 then return {0, 0, 0, now, 'none', '', ''} end

local length = redis.call('XLEN', stream)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]

-- what the slowest group has yet to do
local floor, why, holder
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = by_name(info)
  local listed, last = missing[group.name], group['last-delivered-id']
  if listed or group.consumers > 0 or last ~= '0-0' then
    local id, reason = after(last), 'unread'
    -- entries may have been removed by others while they were pending
    local pending = redis.call('XPENDING', stream, group.name, first and first[1] or '-', '+', 1)[1]
    if pending and is_before(pending[1], id) then id, reason = pending[1], 'pending' end
    -- a server without memory refuses this, and must be trimmed all the same; an older floor is safe
    if listed and listed ~= id then redis.pcall('HSET', floors, group.name, id) end
    if not floor or is_before(id, floor) then floor, why, holder = id, reason, group.name end
  end
  missing[group.name] = nil
end
local lost
for group, id in pairs(missing) do
  if not lost or is_before(id, lost) then lost, holder = id, group end
end

local function is_beyond(index, id)
  if keep and index <= length - keep then return true end
  return max_age ~= nil and tonumber((parts(id))) < now - max_age
end

if not first or not is_beyond(1, first[1]) then return {0, 0, length, now, 'none', '', ''} end
if lost then return {0, 0, length, now, 'missing', holder, is_before(lost, first[1]) and first[1] or lost} end

local count = limit
if not max_age then count = math.min(limit, length - keep) end
local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', count + 1)
local cut, more, held = nil, 0, false
for index, entry in ipairs(entries) do
  local id = entry[1]
  if not is_beyond(index, id) then cut = id; break end
  if floor and not is_before(id, floor) then cut, held = id, true; break end
  if index > limit then cut, more = id, 1; break end
end
cut = cut or after(entries[#entries][1])
local removed = redis.call('XTRIM', stream, 'MINID', '=', cut)
if not held then return {removed, more, length, now, 'none', '', ''} end
return {removed, 0, length, now, why, holder, why == 'pending' and floor or cut}
