"""Reports: pages for people, made from results and nothing else."""

from taskvec.report.analysis import analysis_page as analysis_page
from taskvec.report.bench import bench_page as bench_page
