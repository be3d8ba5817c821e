-- Removes the oldest entries that are beyond a limit, as far as every known group and projection has finished them.
--
-- A missing listed group stops the trimming. The script updates the floors of the listed groups. If relays publish
-- here, the newest entry stays, and the oldest entry that stays replaces each sentinel that is removed.
--
-- KEYS  stream, floors, relay, projections
-- ARGV  number of entries to keep or '', age to keep (ms) or '', maximum number to remove, and of their bytes, '1' to
--       trim regardless of groups
-- Replies {the number removed, 1 if there may be more, the length before, the time in ms, and what blocks the rest:
-- 'none', or 'missing', 'unread', 'pending' or 'projection', the group or projection, and the id of its oldest entry}.

local stream, floors, relay = KEYS[1], KEYS[2], KEYS[3]
local keep, max_age, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_in_ms()
local notes = by_name(redis.call('HGETALL', relay))
if redis.call('EXISTS', stream) == 0 then return {0, 0, 0, now, 'none', '', ''} end

local length = redis.call('XLEN', stream)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]

local floor, holder_reason, holder, lost, lost_group = trim_floor(stream, floors, KEYS[4], first and first[1], function(name, id)
  -- a server out of memory refuses this, and must be trimmed all the same; an older floor is safe
  redis.pcall('HSET', floors, name, id)
end)
if ARGV[5] == '1' then floor, lost = nil, nil end

local function is_beyond(index, id)
  if keep and index <= length - keep then return true end
  return max_age ~= nil and tonumber((parts(id))) < now - max_age
end

if not first or not is_beyond(1, first[1]) then return {0, 0, length, now, 'none', '', ''} end
if lost then return {0, 0, length, now, 'missing', lost_group, is_before(lost, first[1]) and first[1] or lost} end

local count = limit
if not max_age then count = math.min(limit, length - keep) end
local entries, has_more = read_page('XRANGE', { stream }, '-', '+', count + 1, tonumber(ARGV[4]))
local cut, more, held = nil, 0, false
for index, entry in ipairs(entries) do
  local id = entry[1]
  if not is_beyond(index, id) then cut = id; break end
  if floor and not is_before(id, floor) then cut, held = id, true; break end
  if index > limit then cut, more = id, 1; break end
end
local records = records_of(notes)
local last = entries[#entries][1]
if not cut then
  more = has_more
  cut = next(records) and more == 0 and last or after(last)
end

local first_left = next(records) and redis.call('XRANGE', stream, cut, '+', 'COUNT', 1)[1][1]
local kept = cut
for store, record in pairs(records) do
  local sentinel = record.sentinel
  if sentinel ~= '-' and is_before(sentinel, cut) and is_there(stream, sentinel) then
    record.sentinel = first_left
    -- refused by a server out of memory
    local refused = write_record(redis.pcall, relay, store, record)
    if type(refused) == 'table' and is_before(sentinel, kept) then kept = sentinel end
  end
end
local removed = redis.call('XTRIM', stream, 'MINID', '=', kept)
if first_left and removed > 0 and notes.head == first[1] then redis.pcall('HSET', relay, 'head', first_of(stream)) end
if not held then return {removed, more, length, now, 'none', '', ''} end
return {removed, 0, length, now, holder_reason, holder, holder_reason == 'pending' and floor or cut}
