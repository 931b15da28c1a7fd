-- run.db, schema version 3. Only the driver writes; anyone may read at any time (WAL).
-- One transaction per finished candidate: its row, its evaluation and its responses, or none of them.

CREATE TABLE meta (            -- facts about the run: schema_version, names of variables and objectives
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL        -- JSON
) WITHOUT ROWID;

CREATE TABLE items (           -- which items each split holds, in the order in which they are answered
    split    TEXT NOT NULL,    -- search | selection | test
    position INTEGER NOT NULL,
    task     TEXT NOT NULL,
    item     INTEGER NOT NULL, -- index among the task's documents
    digest   TEXT NOT NULL,    -- hash of prompt and target
    PRIMARY KEY (split, position)
) WITHOUT ROWID;

CREATE TABLE candidates (      -- what was asked, by the search and by the random baseline
    phase       TEXT NOT NULL, -- search | random; of two stages also merged | merged_random, the first
    id          INTEGER NOT NULL,     -- order of ask
    generation  INTEGER NOT NULL,     -- generational: they are told together, in order of id
    genome      TEXT NOT NULL,        -- JSON array, in the order of meta.variables
    recipe_hash TEXT NOT NULL,
    cached      INTEGER NOT NULL,     -- 1: an equal recipe had been evaluated before
    told        INTEGER NOT NULL,     -- asynchronous: its place in the order of telling, from 0
    asked       INTEGER NOT NULL,     -- asynchronous: candidates asked by the time it was told
    PRIMARY KEY (phase, id)
) WITHOUT ROWID;

CREATE TABLE item_banks (      -- how calibration models answered: what few answers are read by
    task    TEXT PRIMARY KEY,
    content BLOB NOT NULL      -- a bank's file (docs/item_banks.md)
) WITHOUT ROWID;

CREATE TABLE evaluations (     -- one recipe on one split; paid for once
    id            INTEGER PRIMARY KEY,  -- order of completion
    recipe_hash   TEXT NOT NULL,
    split         TEXT NOT NULL,        -- search | selection | test | as_searched (see judging.py)
    part          INTEGER NOT NULL,     -- 0; 1, 2, ... where it was measured again on more items
    outcome       TEXT NOT NULL,        -- scored, or how it failed
    reason        TEXT NOT NULL,
    objectives    TEXT NOT NULL,        -- JSON {name: [value, standard error]}, earlier parts counted in
    items         INTEGER NOT NULL,     -- that they rest on, earlier parts counted in
    answers       INTEGER NOT NULL,     -- that this part paid for
    merge_seconds REAL NOT NULL,
    score_seconds REAL NOT NULL,
    worker        TEXT NOT NULL,
    finished      TEXT NOT NULL,        -- UTC, ISO 8601
    UNIQUE (recipe_hash, split, part)
);

CREATE TABLE responses (       -- JSON arrays, one entry per item; NULL where all are zero
    evaluation     INTEGER PRIMARY KEY REFERENCES evaluations (id),
    positions      TEXT,       -- of the items in their split; NULL: the first ones
    scores         TEXT NOT NULL,
    tokens         TEXT,
    truncated      TEXT,
    parse_failures TEXT,
    losses         TEXT        -- of the gold answers, where an objective asks for them
);

CREATE TABLE recipes (         -- the recipes that no genome gives: sources, baselines
    name TEXT PRIMARY KEY,
    hash TEXT NOT NULL,
    yaml TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE events (          -- the run's log: started, resumed, moved, budget (raised), stopped, finished
    id     INTEGER PRIMARY KEY,
    at     TEXT NOT NULL,      -- UTC, ISO 8601
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL       -- JSON
);

CREATE VIEW item_scores AS     -- one row per response, for SQL by hand
SELECT e.recipe_hash, e.split, i.task, i.item, s.value AS score
FROM responses r
JOIN evaluations e ON e.id = r.evaluation
JOIN json_each(r.scores) s
JOIN items i ON i.split = CASE e.split WHEN 'as_searched' THEN 'test' ELSE e.split END
    AND i.position = coalesce(json_extract(r.positions, '$[' || s.key || ']'), s.key);
