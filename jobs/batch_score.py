"""The batch job for `spark-submit`: `sparkscore score` with the session, master and jars that Spark was given.

    spark-submit --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
        --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \
        --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog \
        jobs/batch_score.py PIPELINE [--run-id ID] [--set k=v …] [--result FILE] [--json] [--fail-on-quarantine]

The exit codes are those of the command line; `--result FILE` keeps the verdict where a platform collapses them.
"""

import sys

from sparkscore.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
