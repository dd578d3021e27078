"""Find the runs of a study by core and by state"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.drop_index("ix_run_study_uid", table_name="run")
    op.create_index("ix_run_study_uid", "run", ["study_uid", "core", "created_at"])
    op.create_index("ix_run_study_uid_state", "run", ["study_uid", "state"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_run_study_uid_state", table_name="run")
    op.drop_index("ix_run_study_uid", table_name="run")
    op.create_index("ix_run_study_uid", "run", ["study_uid", "created_at"])
