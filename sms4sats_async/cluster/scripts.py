"""The steps that Redis makes for us as one, by its own clock. Each is a script, so that nothing comes between its parts.

The keys, all behind the job's name:

* ``orders``: a stream with a consumer group; an entry is an order, and stays until its end has been told.
* ``open``: a hash, order id to entry id; so that an order is not put in twice.
* ``outcomes``: a stream with a consumer group; an entry is an outcome, and stays until somebody has read it.
* ``dead``: a stream of what was no order, with the reason.
* ``workers``: a hash, worker to JSON; ``beat`` and ``lease`` are milliseconds of Redis's clock.
* ``epoch``: a word that changes when Redis has lost its data; ``quiet``: there for as long as some
  worker may still go on with a share that Redis has forgotten.
* ``brake``: there for as long as the service wants to be left alone.
"""

NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

# KEYS orders open   ARGV (order-id json)...
# An order that is there already is not put in again, so whoever is in doubt can say it again. Returns how many were put in.
SUBMIT = """
local put = 0
for i = 1, #ARGV, 2 do
  local there = redis.call('HGET', KEYS[2], ARGV[i])
  if not (there and #redis.call('XRANGE', KEYS[1], there, there) > 0) then
    redis.call('HSET', KEYS[2], ARGV[i], redis.call('XADD', KEYS[1], '*', 'order', ARGV[i + 1]))
    put = put + 1
  end
end
return put
"""

# KEYS orders open outcomes epoch workers   ARGV group name known-beat lease (epoch outcome order-id how-many-entries entry...)...
# Many in one step: Redis writes to its disk once for them all, where it waits for that.
# The end of an order is told by the one who takes its entry away, so it is told once however many have watched it. Where Redis has lost
# its data since, nobody can know that: it is told, rather than lost. Without entries the outcome is no end.
# What is put in comes first, here and below: a Redis that is full lets things be taken away, and puts nothing in.
TELL = (
    NOW
    + """
local mine = redis.call('HGET', KEYS[5], ARGV[2])
local last = mine and cjson.decode(mine).beat or now - tonumber(ARGV[4])
local known, i = redis.call('GET', KEYS[4]), 5
if last < tonumber(ARGV[3]) then known = nil end
while i <= #ARGV do
  local epoch, outcome, order, count = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local told, taken = redis.call('XADD', KEYS[3], '*', 'outcome', outcome), 0
  for j = i + 4, i + 3 + count do
    if redis.call('XACK', KEYS[1], ARGV[1], ARGV[j]) == 1 then
      redis.call('XDEL', KEYS[1], ARGV[j])
      taken = taken + 1
    end
    if redis.call('HGET', KEYS[2], order) == ARGV[j] then redis.call('HDEL', KEYS[2], order) end
  end
  if count > 0 and taken == 0 and known == epoch then redis.call('XDEL', KEYS[3], told) end
  i = i + 4 + count
end
return 1
"""
)

# KEYS outcomes   ARGV group
# Several readers may be the first at the same time.
OPEN = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return redis.error_reply(made.err) end
return 1
"""

# KEYS outcomes   ARGV group entry...
# What was read is forgotten, in one step: what is taken from the group's list alone would lie in the stream for ever.
FORGET = """
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""

# KEYS orders-or-outcomes dead   ARGV group entry reason field value field value...
# Of the fields no more than Lua can hand on at once.
BURY = """
local buried = redis.call('XADD', KEYS[2], '*', 'reason', ARGV[3], unpack(ARGV, 4, math.min(#ARGV, 2003)))
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return redis.call('XDEL', KEYS[2], buried) end
return redis.call('XDEL', KEYS[1], ARGV[2])
"""

# KEYS orders workers epoch quiet brake outcomes   ARGV group name known-epoch fresh-epoch rate used watching open state lease dead-after
#     silence grace known-beat braked readers-group number
# Returns {"ok", epoch, share, fair, milliseconds of Redis's clock, entries held, milliseconds of the brake, dead worker...}, or
# {"forgotten"} when data that this worker knew are lost, if only since its last beat (a backup was read), or {"given up"} when others have
# been told to take over its orders. Dead workers are named to those who can look after orders: there is a share for them, now or as soon
# as the others have made room.
#
# The shares of all workers are never more than the rate: what another one was given, or has said that it used in the last second, is not
# to be had until it has said otherwise, or its lease is over. Where workers were started with different rates, the lowest counts. Four
# fifths of the rate go by the orders that a worker watches, the rest is the same for all, so that one without orders can begin. A worker
# that is new to a Redis that has just started has to wait: by then all others have been heard, and it has turned out if data are lost.
#
# A beat that Redis has heard after a later one of the same worker, because it was slow, counts for nothing: {"late"}. The later one has
# said what is used, and its answer what may be.
#
# The brake is on when the service has said to one of them that there are too many requests: it is so for all.
#
# "fair" is how many orders each would watch of those who can take more: who has more leaves new ones to the others.
BEAT = (
    NOW
    + """
local epoch = redis.call('GET', KEYS[3])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return redis.error_reply(made.err) end
if not epoch or not made.err then
  epoch = ARGV[4]
  redis.call('SET', KEYS[3], epoch)
  redis.pcall('XGROUP', 'CREATE', KEYS[6], ARGV[16], '0', 'MKSTREAM')  -- a Redis that is full takes no first reader
end

local mine, others, latest = nil, {}, 0
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local record = cjson.decode(all[i + 1])
  latest = math.max(latest, record.beat)
  if all[i] == ARGV[2] then mine = record else others[all[i]] = record end
end
if mine and tonumber(ARGV[17]) <= (mine.number or 0) then return {'late'} end
local last = mine and mine.beat or now - tonumber(ARGV[10])  -- nobody forgets a worker whose lease is not over
if ARGV[3] ~= '' and (ARGV[3] ~= epoch or last < tonumber(ARGV[14])) then
  if ARGV[3] == epoch then redis.call('SET', KEYS[3], ARGV[4]) end
  redis.call('SET', KEYS[4], '1', 'PX', ARGV[10])
  return {'forgotten'}
end
if ARGV[3] ~= '' and (not mine or mine.left) then return {'given up'} end
if now - latest > tonumber(ARGV[12]) then  -- nobody could be heard: so silence is no sign yet that somebody is dead
  local heard = now - math.max(0, tonumber(ARGV[11]) - tonumber(ARGV[13]))
  for name, record in pairs(others) do
    if not record.left then
      record.beat = math.max(record.beat, heard)
      redis.call('HSET', KEYS[2], name, cjson.encode(record))
    end
  end
end

local rate, watching, taken, living = tonumber(ARGV[5]), tonumber(ARGV[7]), 0, 1
local all_watched, open, watched_by_open = watching, 1, watching
for _, record in pairs(others) do
  if record.lease > now then
    taken = taken + math.max(record.used, record.share)
    if not record.left then
      rate = math.min(rate, record.rate)
      living = living + 1
      all_watched = all_watched + record.watching
      if record.open then open, watched_by_open = open + 1, watched_by_open + record.watching end
    end
  end
end
local part = 1 / living
if all_watched > 0 then part = (4 * watching / all_watched + part) / 5 end
local share = math.max(0, math.min(math.max(1, math.floor(rate * part)), rate - taken))
local new = not mine or mine.new
if new then
  local up = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')  -- in whole seconds, and up to one too many
  new = (tonumber(up) - 1) * 1000 < tonumber(ARGV[12])
end
if new or redis.call('EXISTS', KEYS[4]) == 1 then share = 0 end
redis.call('HSET', KEYS[2], ARGV[2], cjson.encode({
  beat = now, lease = now + tonumber(ARGV[10]), used = tonumber(ARGV[6]), share = share, rate = tonumber(ARGV[5]), left = false,
  watching = watching, open = ARGV[8] == '1' and share > 0, new = new, state = ARGV[9], number = tonumber(ARGV[17]),
}))

local braked = math.max(0, redis.call('PTTL', KEYS[5]))
if tonumber(ARGV[15]) > braked then
  braked = tonumber(ARGV[15])
  redis.call('SET', KEYS[5], '1', 'PX', braked)
end
local reply = {'ok', epoch, share, math.floor(watched_by_open / open), now, 0, braked}
local idle = share == 0 and living > rate
for name, record in pairs(others) do
  if not idle and (record.left or now - record.beat > tonumber(ARGV[11])) then reply[#reply + 1] = name end
end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name = consumer[2]
  if name == ARGV[2] then
    reply[6] = consumer[4]
  elseif not idle and not others[name] and consumer[6] > tonumber(ARGV[11]) then
    reply[#reply + 1] = name  -- one that came back from the dead, and died again before it could say so
  end
end
return reply
"""
)

# KEYS orders workers   ARGV group name dead-worker dead-after count
# Takes over up to so many orders of a dead worker, and returns their entries. Of one that has none left only the lease is kept. From the
# first order on it counts as having left: should it live after all, its next beat tells it.
TAKE_OVER = (
    NOW
    + """
local found = redis.call('HGET', KEYS[2], ARGV[3])
local record = found and cjson.decode(found)
if record and not record.left then
  if now - record.beat <= tonumber(ARGV[4]) then return {} end
  record.left = true
  redis.call('HSET', KEYS[2], ARGV[3], cjson.encode(record))
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[5], ARGV[3])
if #pending == 0 then
  if not record or record.lease <= now then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[3])
    redis.call('HDEL', KEYS[2], ARGV[3])
  end
  return {}
end
local ids = {}
for i, entry in ipairs(pending) do ids[i] = entry[1] end
return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
"""
)

# KEYS workers   ARGV name lease
# From now on anybody takes over this worker's orders. Its share is kept for it for so many milliseconds more.
LEAVE = (
    NOW
    + """
local record = redis.call('HGET', KEYS[1], ARGV[1])
record = record and cjson.decode(record) or {used = 0, share = 0, watching = 0, rate = 1e9, open = false, state = '{}'}
record.left, record.beat, record.lease = true, now, now + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(record))
return 1
"""
)

# KEYS workers
# Returns the milliseconds of Redis's clock, then name and record of each worker.
ROLL = (
    NOW
    + """
local roll = redis.call('HGETALL', KEYS[1])
table.insert(roll, 1, tostring(now))
return roll
"""
)

# KEYS orders quiet workers
# Returns whether an order waits for its end, or may be put back, and when the last beat of all was; 0 before the first.
LOOK = """
local latest = 0
for _, record in ipairs(redis.call('HVALS', KEYS[3])) do latest = math.max(latest, cjson.decode(record).beat) end
return {math.max(redis.call('XLEN', KEYS[1]), redis.call('EXISTS', KEYS[2])), latest}
"""
