-- The backlog of a group: a stream of its own with what the group is given beside what the stream holds for all. Its
-- consumers read it as they read any other.
--
-- What is to be put there is a hash beside each stream of events:
--   fill <store> <group>\n<type>  `at through`: the positions of the store after `at` up to `through`, of that type or all
--   copy <group>\n<type>  `next last`: the entries of that type from one id to another
--   first <group>         since when (ms) the backlog comes before everything else: the group is new
--   open <group>          the backlog is not finished, so that how far the group is cannot be told by the stream alone;
--                         since when (ms) it waits for stores, or is to be copied; 1 if an older release noted it
--   filler <store>        when a process with that store asked last (ms)

-- How many entries of a backlog may be unread; then filling waits for its consumers.
local MOST_AHEAD = 2000
-- How many entries are looked at in one step to take out those that are finished.
local TIDIED = 200

local function fills_key(floors) return (string.gsub(floors, 'floors$', 'fills')) end

-- Takes what the group has finished out of its backlog, up to the first entry that is not, and returns how many entries
-- are left.
local function tidy_backlog(backlog, group)
  local info = groups_of(backlog)[group]
  if not info then return redis.call('EXISTS', backlog) == 1 and redis.call('XLEN', backlog) or 0 end
  redis.call('XTRIM', backlog, 'MINID', '=', (floor_of(backlog, info)))
  return redis.call('XLEN', backlog)
end

-- Takes some finished entries out that are behind one which is not. Returns the id to go on with.
local function tidy_behind(backlog, group, from)
  local info = groups_of(backlog)[group]
  local read = info and redis.call('XRANGE', backlog, from, info['last-delivered-id'], 'COUNT', TIDIED) or {}
  if #read == 0 then return '-' end
  local last, pending, finished = read[#read][1], {}, { 'XDEL', backlog }
  for _, entry in ipairs(redis.call('XPENDING', backlog, group, read[1][1], last, #read)) do pending[entry[1]] = true end
  for _, entry in ipairs(read) do
    if not pending[entry[1]] then finished[#finished + 1] = entry[1] end
  end
  if #finished > 2 then redis.call(unpack(finished)) end
  return #read == TIDIED and after(last) or '-'
end

-- Whether its consumers have as much to read as it may hold.
local function is_full(backlog, group)
  local info = groups_of(backlog)[group]
  if not info then return false end
  return (info.lag or #redis.call('XRANGE', backlog, after(info['last-delivered-id']), '+', 'COUNT', MOST_AHEAD)) >= MOST_AHEAD
end

-- Whether an entry stays pending on a consumer that does no more about it, by its tries as JSON.
local function stays(tries)
  return tries and (string.find(tries, '"stays":true', 1, true) or string.find(tries, '"is_exhausted":true', 1, true))
end

local function add_to_backlog(backlog, group, ...)
  if not groups_of(backlog)[group] then redis.call('XGROUP', 'CREATE', backlog, group, '0-0', 'MKSTREAM') end
  return redis.call('XADD', backlog, '*', ...)
end

-- Notes that the backlog of a group is not finished, before it is noted what is to be put there. If it waits already for
-- each of these stores, none of them gets more time to come; else all do.
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

-- Has a new group be given what a store published up to a position.
local function begin_backlog(fills, store, group, through, now)
  if through == '0' then return end
  open_backlog(fills, group, { [store] = true }, now)
  redis.call('HSET', fills, 'fill ' .. store .. ' ' .. group .. '\n', '0 ' .. through,
    'first ' .. group, string.format('%.0f', now))
end
