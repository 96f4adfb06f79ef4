//! The same bytes from any number of threads, at the sizes of `base`.

use crate::{
    child,
    resume::{go_on, last, until_saved},
    setting::{Setting, cpu, parallel_runs},
};

#[test]
fn base_sizes_give_the_same_bytes_with_any_threads_and_after_a_kill() {
    const TEST: &str = "determinism::base_sizes_give_the_same_bytes_with_any_threads_and_after_a_kill";
    if let Some(task) = child::task() {
        return go_on(&task);
    }
    let setting = Setting::base();
    let mut expected = None;
    for threads in [1, 2, 3] {
        let device = cpu(threads);
        let mut trainer = setting.begin(&device);
        while trainer.next_step().unwrap().is_some() {}
        assert_eq!(parallel_runs(&device) > 0, threads > 1);
        let bytes = trainer.checkpoint(String::new()).unwrap().to_bytes().unwrap();
        assert!(*expected.get_or_insert_with(|| bytes.clone()) == bytes, "{threads} threads give other bytes");
    }
    // 51 batches: 25 updates, and the first half of the next.
    let folder = child::folder("base");
    let at = folder.to_str().unwrap();
    let (steps, parallel) = until_saved(TEST, &["base", at, "2", "51"]);
    assert!(steps.len() == 25 && parallel > 0);
    let (steps, parallel) = until_saved(TEST, &["base", at, "2", "0"]);
    assert!(steps.len() == 25 && parallel > 0);
    assert!(Some(last(&folder)) == expected, "the resumed training gives other bytes");
    std::fs::remove_dir_all(folder).unwrap();
}
