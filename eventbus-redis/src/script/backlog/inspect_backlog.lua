-- Inspects the backlog of a group: whether entries must be copied into it, and whether it is finished. Removes a
-- finished backlog with all keys of its consumers.
-- KEYS  backlog, its retry records, its members, its floors, its lease, its relay notes, the number of its retried
--       entries by consumer, then for each stream of events its fills
-- ARGV  group, then if the caller is a consumer of the backlog its name, and the number of its in-flight entries that
--       wait for a retry or are blocked behind one
-- Replies {'none', 'more' or 'finished', '1' if it comes before the stream and has an entry that need not wait for a
-- retry, an absent member or an operator, the stores with missing events and no live process, the number of entries
-- left, '0' if the second part is final, else a number: if so many entries stay pending, the second part is '0' instead,
-- then for each type to copy the number of the stream and its name ...}.

-- Times after which events of a store without a live process are missing: since the backlog was opened, and since such
-- a process last filled it (ms).
local START_TIMEOUT, FILLER_TIMEOUT = 10000, 30000
-- Time in which a consumer's count is valid (ms): it counts every second.
local COUNTED = 5000
-- Field of the cursor for removing finished entries; not a valid name of a consumer.
local FINISHED_CURSOR = '\n'
-- Number and bytes of the entries that one step checks to remove the finished ones.
local FINISHED_PAGE_LEN, FINISHED_PAGE_BYTES = 200, 4 * 1024 * 1024

-- Removes finished entries from the start of a group's backlog, up to the first unfinished one; returns the number of
-- entries left.
local function trim_backlog(backlog, group)
  local info = groups_of(backlog)[group]
  if not info then return redis.call('EXISTS', backlog) == 1 and redis.call('XLEN', backlog) or 0 end
  redis.call('XTRIM', backlog, 'MINID', '=', (floor_of(backlog, info)))
  return redis.call('XLEN', backlog)
end

-- Removes some finished entries behind an unfinished one. Returns the id to continue with.
local function remove_finished(backlog, group, from)
  local info = groups_of(backlog)[group]
  if not info then return '-' end
  local read, more = read_page('XRANGE', { backlog }, from, info['last-delivered-id'], FINISHED_PAGE_LEN, FINISHED_PAGE_BYTES)
  if #read == 0 then return '-' end
  local last, pending, finished = read[#read][1], {}, { 'XDEL', backlog }
  for _, entry in ipairs(redis.call('XPENDING', backlog, group, read[1][1], last, #read)) do pending[entry[1]] = true end
  for _, entry in ipairs(read) do
    if not pending[entry[1]] then finished[#finished + 1] = entry[1] end
  end
  if #finished > 2 then redis.call(unpack(finished)) end
  return more == 1 and after(last) or '-'
end

local backlog, group, now = KEYS[1], ARGV[1], now_in_ms()
local is_first, missing_stores, is_open, waits, copies = '0', {}, false, false, {}
for p = 8, #KEYS do
  local notes = by_name(redis.call('HGETALL', KEYS[p]))
  if notes['open ' .. group] then is_open = true end
  local first = notes['first ' .. group]
  if first then is_first = '1' end
  local since = math.max(tonumber(first or '0'), tonumber(notes['open ' .. group] or '0'))
  for name in pairs(notes) do
    local of, event_type = string.match(name, '^copy ([^\n]*)\n(.*)$')
    if of == group then
      waits = true
      copies[#copies + 1] = string.format('%d %s', p - 8, event_type)
    end
    local store, other = string.match(name, '^fill (%S+) ([^\n]*)\n')
    if other == group then
      waits = true
      local seen = tonumber(notes['filler ' .. store] or '0')
      if now - seen > FILLER_TIMEOUT and now - since > START_TIMEOUT then missing_stores[store] = true end
    end
  end
end
local found = groups_of(backlog)[group]
if not is_open and not found then
  -- a consumer that had not noticed the end has created them again
  if redis.call('EXISTS', unpack(KEYS, 2, 7)) > 0 then redis.call('DEL', unpack(KEYS, 2, 7)) end
  return { 'none', '0', '', '0', '0' }
end
-- refused by a server out of memory
if found and ARGV[2] then redis.pcall('HSET', KEYS[7], ARGV[2], string.format('%s %.0f', ARGV[3], now)) end
local left = trim_backlog(backlog, group)
if left > 0 and found then
  local from = redis.call('HGET', KEYS[7], FINISHED_CURSOR) or '-'
  redis.pcall('HSET', KEYS[7], FINISHED_CURSOR, remove_finished(backlog, group, from))
end

-- Returns the number of entries left that wait for neither a retry nor an absent member: those that are handled now, and
-- those that stay pending; nil if some are unread.
local function count_in_work()
  if not found or is_before(found['last-delivered-id'], newest_of(backlog)) then return nil end
  local in_work, counted = found.pending, by_name(redis.call('HGETALL', KEYS[7]))
  for _, entry in ipairs(redis.call('XINFO', 'CONSUMERS', backlog, group)) do
    local consumer = by_name(entry)
    local count, at = string.match(counted[consumer.name] or '', '^(%d+) (%d+)$')
    if consumer.name == 'absent' then
      in_work = in_work - consumer.pending
    elseif count and now - tonumber(at) < COUNTED then
      in_work = in_work - math.min(consumer.pending, tonumber(count))
    end
  end
  return math.max(in_work, 0)
end
local must_stay = is_first == '1' and not waits and left > 0 and count_in_work()
if must_stay == 0 then is_first = '0' end
-- each entry that stays pending has a record of its attempts
if not must_stay or must_stay > redis.call('HLEN', KEYS[2]) then must_stay = 0 end
if waits or left > 0 then local stores = {}
for store in pairs(missing_stores) do stores[#stores + 1] = store end
table.sort(stores)
return { 'more', is_first, table.concat(stores, ' '), tostring(left), tostring(must_stay), unpack(copies) } end
redis.call('DEL', unpack(KEYS, 1, 7))
for p = 8, #KEYS do redis.call('HDEL', KEYS[p], 'open ' .. group, 'first ' .. group) end
return { 'finished', '0', '', '0', '0' }
