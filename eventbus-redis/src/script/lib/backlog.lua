-- The backlog of a group: a stream of its own with events for this group alone. Its consumers read it like any stream.
--
-- A hash beside each stream of events, `fills`, records what is still to be added:
--   fill <store> <group>\n<type>  `at through`: the store's positions after `at` up to `through`, of that type or all
--   copy <group>\n<type>  `next last`: the entries of that type from one id to the second one
--   first <group>         since when (ms) the backlog comes before the stream: the group is new
--   open <group>          the backlog is unfinished, so the stream alone does not show the group's progress; since when
--                         (ms) it waits for stores or copies; 1 if an older release wrote it
--   filler <store>        when a process with that store last listed or filled (ms)

-- Maximum number of unread entries of a backlog; then filling waits for its consumers.
local MOST_AHEAD = 2000
-- Number of entries that one step checks to remove the finished ones.
local FINISHED_PAGE_LEN = 200

local function fills_key(floors) return (string.gsub(floors, 'floors$', 'fills')) end

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
  local read = info and redis.call('XRANGE', backlog, from, info['last-delivered-id'], 'COUNT', FINISHED_PAGE_LEN) or {}
  if #read == 0 then return '-' end
  local last, pending, finished = read[#read][1], {}, { 'XDEL', backlog }
  for _, entry in ipairs(redis.call('XPENDING', backlog, group, read[1][1], last, #read)) do pending[entry[1]] = true end
  for _, entry in ipairs(read) do
    if not pending[entry[1]] then finished[#finished + 1] = entry[1] end
  end
  if #finished > 2 then redis.call(unpack(finished)) end
  return #read == FINISHED_PAGE_LEN and after(last) or '-'
end

-- Returns true if the consumers have as much to read as the backlog may hold.
local function is_full(backlog, group)
  local info = groups_of(backlog)[group]
  if not info then return false end
  return (info.lag or #redis.call('XRANGE', backlog, after(info['last-delivered-id']), '+', 'COUNT', MOST_AHEAD)) >= MOST_AHEAD
end

-- Returns true if an entry stays pending on a consumer that will not handle it, by its attempts as JSON.
local function stays(attempts)
  return attempts
    and (string.find(attempts, '"stays":true', 1, true) or string.find(attempts, '"is_exhausted":true', 1, true))
end

local function add_to_backlog(backlog, group, ...)
  if not groups_of(backlog)[group] then redis.call('XGROUP', 'CREATE', backlog, group, '0-0', 'MKSTREAM') end
  return redis.call('XADD', backlog, '*', ...)
end

-- Marks a group's backlog as unfinished, before its fills are recorded. If it waits for each of these stores already,
-- they get no additional time to start; otherwise all do.
local function open_backlog(fills, group, stores, now)
  local waits_for = {}
  for _, name in ipairs(redis.call('HKEYS', fills)) do
    local store, other = string.match(name, '^fill (%S+) ([^\n]*)\n')
    if other == group then waits_for[store] = true end
  end
  for store in pairs(stores) do
    if not waits_for[store] then return redis.call('HSET', fills, 'open ' .. group, string.format('%.0f', now)) end
  end
  return redis.call('HSETNX', fills, 'open ' .. group, string.format('%.0f', now))
end

-- Requests a store's events up to a position for a new group.
local function begin_backlog(fills, store, group, through, now)
  if through == '0' then return end
  open_backlog(fills, group, { [store] = true }, now)
  redis.call('HSET', fills, 'fill ' .. store .. ' ' .. group .. '\n', '0 ' .. through,
    'first ' .. group, string.format('%.0f', now))
end
