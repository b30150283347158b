"""The schema in words: a sentence for every table, view and column. A test holds it against a real file."""

TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "schema_migrations": (
        "The numbered steps that made this file what it is; the last number is also PRAGMA user_version.",
        {
            "number": "Of the step.",
            "name": "What the step brought.",
            "applied_at": "When this file took it, UTC.",
        },
    ),
    "devices": (
        "Every device that something was measured on; other software on the same chip is another device.",
        {
            "id": "Number within this file.",
            "fingerprint": "Twelve hex digits over every field below but first_seen_at; the device's name everywhere.",
            "chip_key": "The hardware alone: backend/chip/capability/units.",
            "backend": "cpu or cuda.",
            "chip": "The name that the driver or the processor gives.",
            "capability": "Compute capability of a GPU, instruction sets of a processor.",
            "units": "Streaming multiprocessors of a GPU, cores used of a processor.",
            "memory_bytes": "Of the memory that kernels read from.",
            "versions": "JSON pairs: driver and compilers that turn a template into machine code.",
            "first_seen_at": "UTC.",
        },
    ),
    "device_ceilings": (
        "What a device was measured to be capable of, each number under a name with its unit.",
        {
            "device_id": "Whose.",
            "name": "Such as read_gb_s.",
            "value": "In the unit that the name ends with.",
            "measured_at": "UTC.",
        },
    ),
    "problems": (
        "What is to be computed: one row for each shape and format of an operation.",
        {
            "id": "Number within this file.",
            "key": "op:field=value,...; the problem's name everywhere.",
            "op": "The operation.",
            "family": "The key without its sizes: only within a family are shapes near or far.",
            "logs": "log2(1 + size) of each size, float64; distances between shapes are taken here.",
        },
    ),
    "spaces": (
        "The configurations that a search chose from, as they were then.",
        {
            "id": "Number within this file.",
            "uid": "Hash of the content; the space's name everywhere.",
            "parameters": "JSON: of each its name, values, default and meaning.",
            "constraints": "JSON: of each its name and reason.",
        },
    ),
    "runs": (
        "One search over one problem on one device.",
        {
            "id": "Number within this file.",
            "device_id": "Where it was measured.",
            "problem_id": "What was tuned.",
            "template_version": "Of the kernel template; times of another version are not comparable.",
            "sampler": "Who chose what to try.",
            "seed": "Of the sampler and of the inputs that results were verified on.",
            "space_size": "Configurations there were; 0 when more than can be counted here.",
            "work_bytes": "That the problem has to move, whatever the kernel.",
            "work_ops": "Operations that it has to compute.",
            "run_versions": "JSON: what could change the numbers, this project's commit included.",
            "status": "running, finished, budget (time was up) or interrupted.",
            "host": "The machine that ran it.",
            "pid": "Its process there.",
            "started_at": "UTC.",
            "finished_at": "UTC; empty while it runs.",
            "uid": "A random name, the same in every database that the run gets into.",
            "space_id": "What it chose from; empty for runs from before spaces were kept.",
        },
    ),
    "run_trials": (
        "One configuration tried in a run, with its one measurement; a rematch at the end is a trial of its own.",
        {
            "id": "Number within this file.",
            "run_id": "Whose.",
            "config": "JSON: a value for every parameter.",
            "outcome": "ok, wrong, failed_to_compile, crashed, timed_out or pruned.",
            "q10_ns": "A tenth of the samples took less than so many nanoseconds.",
            "median_ns": "Nanoseconds a call.",
            "q90_ns": "A tenth of the samples took more.",
            "samples": "Timed calls.",
            "compile_s": "Seconds of compiling.",
            "error": "||out - ref|| / ||ref|| against the float64 reference.",
            "tolerance": "That the error had to stay below.",
            "message": 'One line: why it is not ok, or "rematch", or how a duel ended.',
            "created_at": "UTC.",
            "number": "Of the trial within its run, from 0; with the run's uid its name everywhere.",
        },
    ),
    "winners": (
        "The best verified configuration of a problem on a device, and those that were it before.",
        {
            "id": "Number within this file.",
            "device_id": "Where it was measured.",
            "problem_id": "What it computes.",
            "template_version": "Of the kernel template.",
            "run_id": "The search that found it, if this file has that.",
            "trial_id": "The trial in which it was measured, if this file has that.",
            "config": "JSON: a value for every parameter.",
            "q10_ns": "As of trials.",
            "median_ns": "Nanoseconds a call.",
            "q90_ns": "As of trials.",
            "samples": "Timed calls.",
            "default_ns": "What the template's default took in the same rematch.",
            "error": "||out - ref|| / ||ref||; never above the tolerance.",
            "tolerance": "That the error had to stay below.",
            "created_at": "UTC.",
            "replaced_at": "When a later measurement on the same device took its place, UTC.",
            "uid": "Hash of the content; the winner's name everywhere.",
            "current": "1 for the fastest of those that nothing replaced: the one that is used.",
            "run_uid": "The run's name, kept even where the run itself is not.",
            "trial_number": "The trial's number in that run.",
            "reference": "What it was verified against.",
            "winner_versions": "JSON: versions and commit that it was measured with.",
            "clock_mhz": "Of the chip while it was measured, if known.",
        },
    ),
    "winners_state": (
        "One row that says when winners have to be read again by whoever keeps them in memory.",
        {"id": "1.", "generation": "Grows with every change of the table winners."},
    ),
    "v_devices": (
        "View: devices with their read bandwidth and how much is known of them.",
        {
            "memory_gb": "10^9 bytes.",
            "read_gb_s": "Measured, 10^9 bytes a second.",
            "runs": "How many.",
            "winners": "How many are current.",
        },
    ),
    "v_winners": (
        "View: current winners with their chip and problem.",
        {
            "problem": "The problem's key.",
            "median_us": "Microseconds a call.",
            "speed_up": "Times faster than the default.",
            "gb_s": "Over the bytes that the problem has to move.",
            "versions": "winner_versions.",
        },
    ),
    "v_trials": (
        "View: trials with their chip, problem and sampler.",
        {
            "problem": "The problem's key.",
            "median_us": "Microseconds a call.",
            "q10_us": "Microseconds.",
            "q90_us": "Microseconds.",
        },
    ),
}
"""Name → what it holds, and what each column holds. A view's columns that a table describes are left out."""


def column(table: str, name: str) -> str:
    """The sentence about a column; of a view also where a table of ours has said it. KeyError if nobody has."""
    own = TABLES[table][1]
    if name in own or not table.startswith("v_"):
        return own[name]
    return next(columns[name] for _, columns in TABLES.values() if name in columns)
