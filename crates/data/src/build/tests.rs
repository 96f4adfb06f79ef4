use std::collections::HashSet;
use std::process::Command;

use super::*;
use crate::testing::{Folder, names};
use crate::{At, Place, RawPair, Reason};

fn pair(source: &str, target: &str, document: Option<&str>) -> Result<RawPair> {
    let place = Place { file: Path::new("x").into(), at: At::File };
    Ok(RawPair { source: source.into(), target: target.into(), document: document.map(str::to_owned), place })
}

/// A word of letters only for each number.
fn word(mut number: usize) -> String {
    let mut word = "wort".to_owned();
    while number > 0 {
        word.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    word
}

/// Ten pairs in each document.
fn pairs(count: usize) -> Pairs {
    Pairs::new(
        (0..count).map(|n| {
            pair(&format!("the {}", word(n)), &format!("das {}", word(n + 1)), Some(&format!("page {}", n / 10)))
        }),
    )
}

fn config() -> BuildConfig {
    BuildConfig { valid_percent: 10.0, test_percent: 20.0, ..BuildConfig::default() }
}

fn sources(corpus: &Corpus, split: &str) -> Vec<String> {
    corpus.split(split).unwrap().map(|pair| pair.unwrap().source).collect()
}

#[test]
fn documents_stay_together_and_shares_are_kept() {
    let folder = Folder::new("build");
    let corpus = build(pairs(5000), folder.path("c"), &config()).unwrap();
    let manifest = corpus.manifest();
    assert_eq!(manifest.report.kept, 5000);
    assert_eq!(manifest.train.pairs + manifest.valid.pairs + manifest.test.pairs, 5000);
    // 500 documents: five deviations of a binomial are 34 and 45 documents.
    assert!((160..=840).contains(&manifest.valid.pairs), "{}", manifest.valid.pairs);
    assert!((550..=1450).contains(&manifest.test.pairs), "{}", manifest.test.pairs);
    for split in SPLITS {
        let split = sources(&corpus, split);
        assert_eq!(split.len() % 10, 0, "a document was parted");
    }
    corpus.verify().unwrap();
    assert_eq!(names(&folder.path("c")), ["corpus.json", "test.tsv", "train.tsv", "valid.tsv"]);
    assert_eq!(folder.names(), ["c"], "nothing is left beside it");
}

#[test]
fn the_same_pairs_give_the_same_bytes_and_another_seed_gives_others() {
    let folder = Folder::new("build-same");
    let bytes = |name: &str| SPLITS.map(|split| std::fs::read(folder.path(name).join(split_file(split))).unwrap());
    let first = build(pairs(800), folder.path("a"), &config()).unwrap();
    let second = build(pairs(800), folder.path("b"), &config()).unwrap();
    build(pairs(800), folder.path("c"), &BuildConfig { seed: "other".to_owned(), ..config() }).unwrap();
    assert_eq!((bytes("a"), first.manifest()), (bytes("b"), second.manifest()));
    assert_ne!(bytes("a"), bytes("c"));
}

#[test]
fn corpora_become_one_and_each_pair_stays_in_its_split() {
    let folder = Folder::new("build-merge");
    let a = build(pairs(800), folder.path("a"), &config()).unwrap();
    let others = (800..1600).map(|n| pair(&format!("the {}", word(n)), "noch eins", Some(&format!("page {}", n / 10))));
    // What a tests stands in b, where it may be in train.
    let known = sources(&a, "test").into_iter().map(|source| pair(&source, "schon bekannt", Some(&source)));
    let b = build(Pairs::new(others.chain(known.collect::<Vec<_>>())), folder.path("b"), &config()).unwrap();
    let both = Pairs::concat([a.pairs(), b.pairs()].into_iter());
    let kept = BuildConfig { split_by: SplitBy::Kept, ..config() };
    let merged = build(both, folder.path("c"), &kept).unwrap();
    let of = |corpus: &Corpus, split| sources(corpus, split).into_iter().collect::<HashSet<_>>();
    for split in ["train", "valid", "test"] {
        let (from_a, from_b, found) = (of(&a, split), of(&b, split), of(&merged, split));
        assert!(found.is_subset(&from_a.union(&from_b).cloned().collect()), "{split}");
        if split == "train" {
            assert!(from_a.is_subset(&found) && from_b.is_subset(&found));
        }
    }
    assert!(of(&merged, "train").is_disjoint(&of(&merged, "test")));
    assert!(merged.manifest().leaks.test_in_train > 50, "{:?}", merged.manifest().leaks);
}

#[test]
fn what_two_splits_share_leaves_valid_and_test() {
    let folder = Folder::new("build-leaks");
    // Each document has a sentence of its own, and one that all have, in another spelling and translation each time.
    let spellings = ["Click OK", "click ok.", "CLICK «OK»", "Click 1: OK"];
    let shared = (0..400).map(move |n| {
        let target = format!("{} {} klicken", spellings[n % 4].to_lowercase(), word(n % 7));
        pair(spellings[n % 4], &target, Some(&format!("page {n}")))
    });
    let own = (0..400).map(|n| pair(&format!("about {}", word(n)), "zum Thema", Some(&format!("page {n}"))));
    // And one that it shares with its neighbour only, so that some stand in valid and test and not in train.
    let twins =
        (0..400).map(|n| pair(&format!("both {}", word(n / 2)), &format!("zwei {n}"), Some(&format!("page {n}"))));
    let pairs = Pairs::new(shared.chain(own).chain(twins));
    let corpus = build(pairs, folder.path("c"), &config()).unwrap();
    let normal = |split| sources(&corpus, split).iter().map(|text| normal_form(text)).collect::<HashSet<_>>();
    let [train, valid, test] = SPLITS.map(normal);
    assert!(train.contains("click ok") && train.is_disjoint(&valid) && train.is_disjoint(&test));
    assert!(valid.is_disjoint(&test));
    let Leaks { test_in_train, valid_in_train, valid_in_test } = corpus.manifest().leaks;
    assert!(test_in_train > 10 && valid_in_train > 5, "{test_in_train} {valid_in_train}");
    assert!(valid_in_test > 2, "{valid_in_test}");
    let left: u64 = SPLITS.iter().map(|split| sources(&corpus, split).len() as u64).sum();
    assert_eq!(left + test_in_train + valid_in_train + valid_in_test, corpus.manifest().report.kept);
    assert_eq!(corpus.manifest().train_sources, train.len() as u64);
}

#[test]
fn without_documents_a_source_stays_in_one_split() {
    let folder = Folder::new("build-source");
    let twice = (0..2000).map(|n| pair(&format!("the {}", word(n % 1000)), &format!("das {}", word(n)), None));
    let corpus = build(Pairs::new(twice), folder.path("c"), &config()).unwrap();
    assert_eq!(corpus.manifest().leaks, Leaks::default());
    let one = (0..1000).map(|n| pair(&format!("the {}", word(n)), "das Wort", Some("all")));
    let one = Pairs::new(one);
    let by_source = BuildConfig { split_by: SplitBy::Source, ..config() };
    assert!(build(one, folder.path("d"), &by_source).unwrap().manifest().test.pairs > 100);
}

#[test]
fn a_corpus_is_replaced_as_a_whole_and_nothing_else_is() {
    let folder = Folder::new("build-replace");
    let path = folder.path("c");
    std::fs::create_dir_all(&path).unwrap();
    build(pairs(500), &path, &config()).unwrap();
    assert_eq!(build(pairs(900), &path, &config()).unwrap().manifest().report.kept, 900);
    let before = std::fs::read(path.join("train.tsv")).unwrap();

    // A reader that fails on the way leaves everything as it was.
    let broken = (0..100).map(|n| if n < 99 { pair(&word(n), "das Wort", None) } else { Err(Error::NothingToScore) });
    assert!(matches!(build(Pairs::new(broken), &path, &config()), Err(Error::NothingToScore)));
    assert_eq!(std::fs::read(path.join("train.tsv")).unwrap(), before);

    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    let error = build(pairs(500), &path, &config()).unwrap_err();
    assert!(matches!(&error, Error::Occupied { found, .. } if found == "notes.txt"), "{error}");
    std::fs::remove_file(path.join("corpus.json")).unwrap();
    assert!(matches!(build(pairs(500), &path, &config()), Err(Error::Occupied { .. })));
    let file = folder.write("file", b"");
    assert!(matches!(build(pairs(500), file, &config()), Err(Error::NotAFolder { .. })));
    assert_eq!(folder.names(), ["c", "file"], "nothing is left beside it");
}

#[test]
fn extreme_options_are_written_and_read() {
    let folder = Folder::new("build-extreme");
    let filter = FilterConfig {
        min_words: 0,
        max_words: usize::MAX,
        min_ratio: f64::MIN_POSITIVE,
        max_ratio: f64::MAX,
        unwanted: vec!["\u{fffd}\"\\\n".to_owned()],
        ..FilterConfig::default()
    };
    let wanted =
        BuildConfig { seed: "\0 \u{10ffff}".to_owned(), valid_percent: 1.7, test_percent: 33.333, filter, ..config() };
    let corpus = build(pairs(5000), folder.path("new/deep/c"), &wanted).unwrap();
    assert_eq!(corpus.manifest().options, wanted);
}

#[test]
fn nothing_to_learn_from_says_why() {
    let folder = Folder::new("build-nothing");
    let short = BuildConfig { filter: FilterConfig { min_words: 5, ..FilterConfig::default() }, ..config() };
    let error = build(pairs(10), folder.path("c"), &short).unwrap_err();
    assert!(matches!(&error, Error::EmptySplit { split: "train", report, .. } if report.count(Reason::Words) == 10));
    assert!(error.to_string().contains("words               10  x: the wort | das wortb"), "{error}");
    let one = (0..1000).map(|n| pair(&format!("the {}", word(n)), "das Wort", Some("all")));
    assert!(matches!(build(Pairs::new(one), folder.path("c"), &config()), Err(Error::EmptySplit { .. })));
    let few = BuildConfig { valid_percent: 0.0, test_percent: 0.0, ..config() };
    let corpus = build(pairs(3), folder.path("d"), &few).unwrap();
    assert_eq!((corpus.manifest().train.pairs, sources(&corpus, "test").len()), (3, 0));
    for (valid, test) in [(50.0, 50.0), (-1.0, 5.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
        let wrong = BuildConfig { valid_percent: valid, test_percent: test, ..config() };
        assert!(matches!(build(pairs(10), folder.path("e"), &wrong), Err(Error::Option { .. })));
    }
    assert_eq!(folder.names(), ["d"]);
}

#[test]
fn a_changed_corpus_is_noticed() {
    let folder = Folder::new("build-changed");
    let path = folder.path("c");
    let open = || Corpus::open(&path);
    let said = |result: Result<Corpus>| result.unwrap_err().to_string();
    let corpus = build(pairs(500), &path, &config()).unwrap();
    assert!(matches!(corpus.split("dev"), Err(Error::UnknownSplit { .. })));
    assert_eq!(open().unwrap(), corpus);

    let train = std::fs::read_to_string(path.join("train.tsv")).unwrap();
    folder.write("c/train.tsv", train.replacen('\t', " ", 1).as_bytes());
    assert!(open().unwrap().verify().unwrap_err().to_string().contains("train.tsv"));
    let first = open().unwrap().split("train").unwrap().next();
    assert!(matches!(first, Some(Err(Error::NotACorpus { cause, .. })) if cause.starts_with("line 1")));
    folder.write("c/train.tsv", &train.as_bytes()[1..]);
    assert!(said(open()).contains("train.tsv"));
    folder.write("c/train.tsv", train.as_bytes());

    let json = std::fs::read_to_string(path.join("corpus.json")).unwrap();
    folder.write("c/corpus.json", json.replacen("\"version\": 1", "\"version\": 2", 1).as_bytes());
    assert!(said(open()).contains("version 2"));
    for bad in ["", "{}", "[1]", &json.replacen("\"seed\"", "\"sead\"", 1)] {
        folder.write("c/corpus.json", bad.as_bytes());
        assert!(said(open()).contains("corpus.json"), "{bad}");
    }
    assert!(said(Corpus::open(folder.path("none"))).contains("help: "));
}

/// Peak memory of this process in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// In a process of its own, since the peak of this one belongs to all tests.
#[cfg(target_os = "linux")]
#[test]
fn a_corpus_need_not_fit_into_memory() {
    const CHILD: &str = "ATTENTIA_DATA_STREAMING_CHILD";
    const SIZE: u64 = 64 << 20;
    if std::env::var_os(CHILD).is_some() {
        let folder = Folder::new("build-memory");
        let tail = "und noch einige Wörter, damit die Zeile lang wird ".repeat(6);
        let lines = (0..).map(move |n| pair(&format!("the {} {tail}", word(n)), &format!("das {tail} {n}"), None));
        let mut left = SIZE;
        let pairs = lines.take_while(move |pair| {
            let length = pair.as_ref().map_or(0, |pair| pair.source.len() + pair.target.len() + 2);
            left = left.saturating_sub(length as u64);
            left > 0
        });
        let before = peak();
        let filter = FilterConfig { max_words: 1000, ..FilterConfig::default() };
        let corpus = build(Pairs::new(pairs), folder.path("c"), &BuildConfig { filter, ..config() }).unwrap();
        let files = corpus.manifest().train.bytes + corpus.manifest().test.bytes + corpus.manifest().valid.bytes;
        // Texts lose the space at their end.
        assert!(files > SIZE / 100 * 99, "{files}");
        let grown = peak() - before;
        println!("{} pairs, {files} bytes, peak memory grew by {grown}", corpus.manifest().report.kept);
        // Twice 16 bytes for each of 100 thousand pairs, and buffers. A quarter of the corpus is far from both.
        assert!(grown < SIZE / 4, "{grown}");
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build::tests::a_corpus_need_not_fit_into_memory", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let line = said.lines().find_map(|line| line.find("pairs, ").map(|_| line)).expect("the child ran the test");
    println!("{line}");
}

/// The bundled corpus was made by another program (`make/make.py` of its crate) from the same pages by the same rules.
/// Give the unpacked folder `help` of LibreOffice 4:7.4.7 to compare.
#[test]
fn help_pages_give_the_bundled_corpus() {
    const HELP: &str = "ATTENTIA_LIBREOFFICE_HELP";
    let Some(help) = std::env::var_os(HELP).map(PathBuf::from) else {
        println!("skipped: {HELP} names no folder with help pages");
        return;
    };
    let folder = Folder::new("build-lohelp");
    let pairs = crate::format::lohelp(help.join("en-US"), help.join("de")).unwrap().sentences();
    let unwanted = vec![crate::format::BROKEN_EMBEDDING.to_owned()];
    let config = BuildConfig {
        seed: "attentia english-german 1".to_owned(),
        filter: FilterConfig { unwanted, ..FilterConfig::default() },
        ..BuildConfig::default()
    };
    let corpus = build(pairs, folder.path("c"), &config).unwrap();
    println!("{}\n{:?}", corpus.manifest().report, corpus.manifest().leaks);
    let bundled = attentia_corpus::english_german().unwrap();
    for (split, expected) in SPLITS.into_iter().zip([bundled.train, bundled.valid, bundled.test]) {
        let found: Vec<_> = corpus.split(split).unwrap().map(|pair| pair.unwrap()).collect();
        let [found, expected] = [
            found.iter().map(|pair| (pair.source.as_str(), pair.target.as_str())).collect::<Vec<_>>(),
            expected.iter().map(|pair| (pair.source.as_str(), pair.target.as_str())).collect::<Vec<_>>(),
        ];
        let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        let example = differs.map(|at| (found[at], expected[at]));
        assert!(found == expected, "{split}: {} pairs, {} bundled, first {example:?}", found.len(), expected.len());
    }
}
