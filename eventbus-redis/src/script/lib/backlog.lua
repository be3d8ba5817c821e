-- The backlog of a group: a stream of its own with events for this group alone. Its consumers read it like any stream.
--
-- A hash beside each stream of events, `fills`, records what is still to be added:
--   fill <store> <group>\n<type>  `at through`: the store's positions after `at` up to `through`, of that type or all
--   copy <group>\n<type>  `next last`: the entries of that type from one id to the second one
--   foreign <group>\n<type>  set if these are only the entries without a store
--   first <group>         since when (ms) the backlog comes before the stream: the group is new
--   open <group>          the backlog is unfinished, so the stream alone does not show the group's progress; since when
--                         (ms) it waits for stores or copies; 1 if an older release wrote it
--   filler <store>        when a process with that store last listed or filled (ms)

local function fills_key(floors) return (string.gsub(floors, 'floors$', 'fills')) end

-- Returns true if an entry used up its attempts and stays pending, by its attempts as JSON.
local function is_exhausted(attempts) return attempts and string.find(attempts, '"is_exhausted":true', 1, true) end

-- Returns true if an entry stays pending on a consumer that will not handle it, by its attempts as JSON.
local function stays(attempts)
  return attempts and (string.find(attempts, '"stays":true', 1, true) or is_exhausted(attempts))
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
