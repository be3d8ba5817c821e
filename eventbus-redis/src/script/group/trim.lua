-- Removes the oldest entries that are beyond a limit, as far as every group and projection has finished them.
-- KEYS  stream, projections
-- ARGV  number of entries to keep or '', age to keep (ms) or '', maximum number to remove, and of their bytes, '1' to
--       trim regardless of groups
-- Replies {the number removed, 1 if there may be more, the length before, the time in ms, and what blocks the rest:
-- 'none', or 'unread', 'pending' or 'projection', the group or projection, and the id of its oldest entry}.
local stream, now = KEYS[1], now_in_ms()
local keep, max_age, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local first = first_of(stream)
if not first then return {0, 0, 0, now, 'none', '', ''} end
local length = redis.call('XLEN', stream)

local function is_beyond(index, id)
  if keep and index <= length - keep then return true end
  return max_age ~= nil and tonumber((parts(id))) < now - max_age
end
if not is_beyond(1, first) then return {0, 0, length, now, 'none', '', ''} end

local floor, reason, holder
if ARGV[5] ~= '1' then floor, reason, holder = trim_floor(stream, KEYS[2], first) end
local count = limit
if not max_age then count = math.min(limit, length - keep) end
local entries, has_more = read_page('XRANGE', stream, '-', '+', count + 1, tonumber(ARGV[4]))
local cut, more, held = nil, 0, false
for index, entry in ipairs(entries) do
  local id = entry[1]
  if not is_beyond(index, id) then cut = id; break end
  if floor and not is_before(id, floor) then cut, held = id, true; break end
  if index > limit then cut, more = id, 1; break end
end
if not cut then cut, more = after(entries[#entries][1]), has_more end
local removed = redis.call('XTRIM', stream, 'MINID', '=', cut)
if not held then return {removed, more, length, now, 'none', '', ''} end
return {removed, 0, length, now, reason, holder, reason == 'pending' and floor or cut}
