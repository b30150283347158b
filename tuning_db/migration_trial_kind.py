"""Step 5: a trial's kind is a column; until now the message "rematch" marked the trials of a final comparison."""

from tuning_db.migration import Migration

TRIAL_KIND = Migration(
    5,
    "the kind of a trial",
    (
        "ALTER TABLE run_trials ADD COLUMN kind TEXT NOT NULL DEFAULT 'search'",
        "UPDATE run_trials SET kind = 'final_comparison', message = NULL WHERE message = 'rematch'",
        "DROP VIEW v_trials",
        """CREATE VIEW v_trials AS
            SELECT d.chip, p.op, p.key AS problem, r.template_version, t.run_id, t.number, t.kind, r.sampler, t.outcome,
                t.median_ns / 1e3 AS median_us, t.q10_ns / 1e3 AS q10_us, t.q90_ns / 1e3 AS q90_us, t.samples,
                t.compile_s, t.error, t.tolerance, t.config, t.message, t.created_at
            FROM run_trials t JOIN runs r ON r.id = t.run_id JOIN devices d ON d.id = r.device_id
                JOIN problems p ON p.id = r.problem_id""",
    ),
)
